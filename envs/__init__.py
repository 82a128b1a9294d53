"""One file or folder per world; import as ``marl.envs`` only."""

if __name__ != "marl.envs":
    raise ImportError(
        f"'{__name__}' is not an import root of this project: import 'marl.envs' instead "
        "(two copies of one class would break isinstance)."
    )
