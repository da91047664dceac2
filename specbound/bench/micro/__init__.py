"""Small measurements behind figures of the documentation. No command uses them."""
