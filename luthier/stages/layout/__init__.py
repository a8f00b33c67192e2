"""Before the first step: rows, modules, optimiser and pace are laid out, and every `auto` is decided."""
