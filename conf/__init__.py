"""Hydra configs, composed through pkg://marl.conf; import as ``marl.conf`` only."""

if __name__ != "marl.conf":
    raise ImportError(
        f"'{__name__}' is not an import root of this project: import 'marl.conf' instead "
        "(two copies of one class would break isinstance)."
    )
