//! `config-switch`: lays a model over a server's configuration, or takes it away.

use barkeep_transport::durable;

use super::restart;
use crate::args::ConfigSwitchArgs;
use crate::config::Setting;
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;

/// Switches, and restarts the server's receiver.
///
/// # Errors
/// When server or model are unknown or do not belong together, or the choice can't be stored.
pub fn run(context: &mut Context, args: &ConfigSwitchArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Query)?;
    match &args.model {
        Some(model) => apply(context, &server, model)?,
        None => reset(&server)?,
    }
    restart::receiver(context, &args.server)
}

fn apply(context: &Context, server: &ServerContext, name: &str) -> Result<(), CommandError> {
    let config = &server.config;
    let Some(model) = context.config().models.get(name) else {
        let known: Vec<&str> = context
            .config()
            .models
            .values()
            .filter(|model| model.cluster() == config.cluster())
            .map(|model| model.name())
            .collect();
        let hint = if known.is_empty() { "there is none for it".to_owned() } else { known.join(", ") };
        return Err(CommandError::new(format!("Unknown model '{name}'"))
            .hint(format!("models of cluster '{}': {hint}", config.cluster())));
    };
    if model.cluster() != config.cluster() {
        return Err(CommandError::new(format!(
            "Model '{name}' has 'cluster={}', which is not compatible with 'cluster={}' from server '{}'",
            model.cluster(),
            config.cluster(),
            server.name()
        )));
    }
    if config.active_model() == Some(name) {
        server
            .output
            .info(format!("Model '{name}' is already active for server '{}', skipping...", server.name()));
        return Ok(());
    }
    server.output.info(format!("Applying model '{name}' to server '{}'", server.name()));
    let text = |setting: Option<&Setting>| setting.and_then(|setting| setting.text.clone());
    for (key, setting) in model.overrides() {
        let old = config.setting(key);
        if old.map(|old| &old.value) != Some(&setting.value) {
            server.output.info(format!(
                "Changing value of option '{key}' for server '{}' from '{}' to '{}' through the model '{name}'",
                server.name(),
                text(old).as_deref().unwrap_or("None"),
                text(Some(setting)).as_deref().unwrap_or("None"),
            ));
        }
    }
    durable::create_dir_all(&config.backup_directory())?;
    durable::write(&config.active_model_file(), name.as_bytes())?;
    Ok(())
}

fn reset(server: &ServerContext) -> Result<(), CommandError> {
    server.output.info(format!("Resetting the active model for the server {}", server.name()));
    durable::remove(&server.config.active_model_file())?;
    Ok(())
}
