"""Where draft tokens come from without running a layer. Each source knows tokens only: no model, no price, no tree."""
