"""One folder per method; import as ``marl.agents`` only."""

if __name__ != "marl.agents":
    raise ImportError(
        f"'{__name__}' is not an import root of this project: import 'marl.agents' instead "
        "(two copies of one class would break isinstance)."
    )
