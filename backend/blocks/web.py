"""The blocks that send HTTP requests."""

from typing import Any, Literal

from backend.blocks.block import (
    Accepted,
    Block,
    BlockError,
    BlockInput,
    BlockOutput,
    Category,
    Context,
    Example,
    Items,
    Pins,
    credentials_pin,
    pin,
)

Method = Literal["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]


class SendWebRequestBlock(Block):
    """Sends an HTTP request and gives out the answer, JSON as values and anything else as text."""

    id = "6595ae1f-b924-42cb-9a41-551a0611c4b4"
    categories = (Category.OUTPUT,)
    examples = (
        Example({"url": "ftp://example.com"}, error="A URL begins with http:// or https://, not with ftp://."),
        Example(
            {"url": "http://127.0.0.1/"},
            error="127.0.0.1 is a private address (127.0.0.1), which may not be reached from here: "
            "name it in TRUSTED_HOSTS if they may.",
        ),
    )

    class Input(BlockInput):
        url: str = pin("The address, beginning with http:// or https://")
        method: Method = pin("The method", default="POST")
        headers: dict[str, str] = pin("The headers", factory=dict)
        json_format: bool = pin("Whether to send the body as JSON; as a form otherwise", default=True)
        body: dict[str, Any] | None = pin("The body", default=None)
        files_name: str = pin("The name of the form field for files", default="file")
        files: Items = pin("Files to send", factory=Items)

    class Output(BlockOutput):
        response: Any = pin("The answer, if the request succeeded (status 2xx)")
        client_error: Any = pin("The answer, if the request was refused (status 4xx)")
        server_error: Any = pin("The answer, if the server failed (status 5xx)")
        error: str = pin("Why there is no answer")

    async def run(self, input: Input, context: Context) -> Pins:
        # aiohttp takes several times as long to import as all blocks together
        from backend.blocks import _http  # noqa: PLC0415

        if input.files:
            raise BlockError("Files cannot be sent yet: leave `files` empty.")
        body = _http.Body(input.body, input.json_format)
        answer = await _http.send(input.method, input.url, input.headers, body, context)
        yield _pin_for(answer.status), answer.content


ACCEPTED = Accepted(("http",), ("host_scoped", "api_key", "user_password"))


class SendAuthenticatedWebRequestBlock(Block):
    """Sends an HTTP request with a credential, which goes to no other host, and gives out the answer."""

    id = "fff86bcd-e001-4bad-a7f6-2eae4720c8dc"
    categories = (Category.OUTPUT,)
    examples = (
        Example(
            {"url": "https://example.com", "credentials": {"id": "…", "provider": "http", "type": "host_scoped"}},
            error="No credentials can be used here: use the block in an agent.",
        ),
    )

    class Input(SendWebRequestBlock.Input):
        credentials: dict[str, Any] = credentials_pin(
            "The credential to send with it: headers for one host, an API key, or a name and password",
            ACCEPTED,
            discriminator="url",
        )

    class Output(SendWebRequestBlock.Output):
        pass

    async def run(self, input: Input, context: Context) -> Pins:
        from backend.blocks import _http  # noqa: PLC0415

        if input.files:
            raise BlockError("Files cannot be sent yet: leave `files` empty.")
        held = await context.outside.credentials(input.credentials, ACCEPTED)
        headers = _http.with_credentials(input.url, input.headers, held)
        body = _http.Body(input.body, input.json_format)
        answer = await _http.send(input.method, input.url, headers, body, context)
        yield _pin_for(answer.status), answer.content


def _pin_for(status: int) -> str:
    if status >= 500:
        return "server_error"
    return "client_error" if status >= 400 else "response"
