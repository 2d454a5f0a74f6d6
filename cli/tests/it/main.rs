//! The barkeep program as its users meet it: run as a process, against real servers and real homes.

mod command_line;
mod configuration;
mod support;
