#!/bin/sh
# static-target.sh - the rustc target that static binaries are built for: musl if it is installed, else the machine's own.
host=$(rustc -vV | sed -n 's/^host: //p')
musl=$(printf '%s' "$host" | sed 's/-gnu/-musl/')
if [ -d "$(rustc --print target-libdir --target "$musl" 2>/dev/null)" ]; then echo "$musl"; else echo "$host"; fi
