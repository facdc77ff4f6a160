from collections.abc import Mapping

class Process:
    cmd: str
    name: str
    env: dict[str, str]
    cwd: str | None
    def __init__(
        self,
        cmd: str,
        name: str | None = ...,
        colour: str | None = ...,
        quiet: bool = ...,
        env: Mapping[str, str] | None = ...,
        cwd: str | None = ...,
    ) -> None: ...
    def _send_message(self, data: str | bytes | dict[str, int], type: str = ...) -> None: ...
