"""Token rewards over HTTP: ``redline serve-reward``, for OpenRLHF, verl, slime and trainers of one's own.

Requests that come at the same time are scored together: their texts wait in one queue, from which a worker
takes batches. What is more than the queue holds is refused with status 503, so that a client tries again
later instead of waiting without end.
"""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from redline.data.files import explain
from redline.data.records import Text, as_text
from redline.errors import UserError
from redline.reward.token_reward import ScoredResponse, TokenReward


@dataclass(frozen=True)
class Limits:
    """What one server takes: ``batch`` texts are scored at once, ``waiting`` texts may wait; a request has at
    most ``texts`` of them, each of at most ``characters`` with its prompt, and ``bytes`` in all."""

    batch: int = 32
    waiting: int = 1024
    texts: int = 512
    characters: int = 100_000
    bytes: int = 16 * 2**20


Asked = TypeVar("Asked", bound=BaseModel)


class Refused(Exception):
    """A request that is not answered: the status, and what is wrong with it."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


class ScoreRequest(BaseModel):
    """What /score takes."""

    prompts: list[Text]
    responses: list[Text]


class OpenRlhfRequest(BaseModel):
    """What OpenRLHF's ``--remote_rm_url`` sends: ``query`` are the prompts with their responses."""

    query: list[str]
    prompts: list[str] | None = None


class SlimeRequest(BaseModel):
    """What slime's ``--rm-type remote_rm`` sends: one sample."""

    prompt: Text
    response: str


@dataclass
class _Waiting:
    prompt: Text
    response: Text
    scored: "asyncio.Future[ScoredResponse]"


class BatchQueue:
    """Texts that wait to be scored, and the worker that takes them in batches."""

    def __init__(self, reward: TokenReward, limits: Limits):
        self.reward, self.limits = reward, limits
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()

    @property
    def waiting(self) -> int:
        """How many texts wait."""
        return self._queue.qsize()

    async def score(self, prompts: Sequence[Text], responses: Sequence[Text]) -> list[ScoredResponse]:
        """Wait for the rewards of some texts. Raises Refused when they do not fit into the queue, or when one
        of them cannot be scored."""
        if self.waiting + len(responses) > self.limits.waiting:
            raise Refused(503, f"{self.waiting} texts are waiting already. Try again later.")
        loop = asyncio.get_running_loop()
        places = [
            _Waiting(prompt, response, loop.create_future())
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        for place in places:
            self._queue.put_nowait(place)
        scored = await asyncio.gather(*(place.scored for place in places), return_exceptions=True)
        for result in scored:
            if isinstance(result, BaseException):
                raise result
        return [result for result in scored if isinstance(result, ScoredResponse)]

    async def work(self) -> None:
        """Score batches until cancelled. The model computes in a thread, so that requests are taken
        meanwhile."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self.limits.batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await asyncio.to_thread(self._score, batch, asyncio.get_running_loop())

    def _score(self, batch: list[_Waiting], loop: asyncio.AbstractEventLoop) -> None:
        try:
            scored = self.reward.score([place.prompt for place in batch], [place.response for place in batch])
        except UserError as error:
            if len(batch) == 1:
                loop.call_soon_threadsafe(_fail, batch[0], Refused(422, str(error)))
                return
            for place in batch:  # one of them cannot be scored: the others can
                self._score([place], loop)
            return
        except Exception as error:
            for place in batch:
                refused = Refused(500, f"the model failed ({type(error).__name__}: {error})")
                loop.call_soon_threadsafe(_fail, place, refused)
            return
        for place, result in zip(batch, scored, strict=True):
            loop.call_soon_threadsafe(_finish, place, result)


def _finish(place: _Waiting, result: ScoredResponse) -> None:
    if not place.scored.done():  # the client may be gone
        place.scored.set_result(result)


def _fail(place: _Waiting, error: Refused) -> None:
    if not place.scored.done():
        place.scored.set_exception(error)


def reward_app(reward: TokenReward, token: str, limits: Limits | None = None) -> Starlette:
    """The application: POST /score, /openrlhf and /slime, GET /health.

    Every POST names ``token``: ``Authorization: Bearer TOKEN``, or ``?token=TOKEN`` behind the address, for
    clients that send no headers of one's own.
    """
    limits = limits or Limits()
    queue = BatchQueue(reward, limits)

    async def score(request: Request) -> object:
        asked = await _read(request, ScoreRequest, limits)
        if len(asked.prompts) != len(asked.responses):
            raise Refused(
                422, f"{len(asked.prompts)} prompts for {len(asked.responses)} responses: give as many."
            )
        scored = await _scored(asked.prompts, asked.responses)
        return {"scores": [asdict(result) | {"total": result.total} for result in scored]}

    async def openrlhf(request: Request) -> object:
        asked = await _read(request, OpenRlhfRequest, limits)
        prompts = asked.prompts or [""] * len(asked.query)
        if len(prompts) != len(asked.query):
            raise Refused(422, f"{len(prompts)} prompts for {len(asked.query)} queries: give as many.")
        pairs = [_split(query, prompt) for query, prompt in zip(asked.query, prompts, strict=True)]
        scored = await _scored([prompt for prompt, _ in pairs], [response for _, response in pairs])
        totals = [result.total for result in scored]
        return {
            "rewards": totals,
            "scores": totals,
            "token_rewards": [result.rewards for result in scored],
            "offsets": [result.offsets for result in scored],
        }

    async def slime(request: Request) -> object:
        asked = await _read(request, SlimeRequest, limits)
        (scored,) = await _scored([asked.prompt], [asked.response])
        return scored.total

    async def _scored(prompts: Sequence[Text], responses: Sequence[Text]) -> list[ScoredResponse]:
        _check_texts(prompts, responses, limits)
        return await queue.score(prompts, responses)

    async def health(request: Request) -> Response:
        return JSONResponse({"model": reward.model.kind, "waiting": queue.waiting})

    @asynccontextmanager
    async def working(app: Starlette) -> AsyncIterator[None]:
        worker = asyncio.create_task(queue.work())
        yield
        worker.cancel()

    posts = {"/score": score, "/openrlhf": openrlhf, "/slime": slime}
    routes = [Route(path, _answer(handler, token), methods=["POST"]) for path, handler in posts.items()]
    return Starlette(routes=[*routes, Route("/health", health)], lifespan=working)


def _answer(
    handler: Callable[[Request], Awaitable[object]], token: str
) -> Callable[[Request], Awaitable[Response]]:
    """A handler behind the token, whose refusals become answers with their status."""

    async def answer(request: Request) -> Response:
        try:
            _check_token(request, token)
            return JSONResponse(await handler(request))
        except Refused as error:
            headers = {"Retry-After": "1"} if error.status == 503 else None
            return JSONResponse({"error": error.message}, error.status, headers)

    return answer


def _check_token(request: Request, token: str) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = request.query_params.get("token", "")
    if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
        raise Refused(401, "the token is missing or wrong: send Authorization: Bearer TOKEN, or ?token=TOKEN")


async def _read(request: Request, kind: type[Asked], limits: Limits) -> Asked:
    """The checked body of a request."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limits.bytes:
            raise Refused(413, f"the request is longer than {limits.bytes:,} bytes: send fewer texts")
    try:
        return kind.model_validate(json.loads(body))
    except ValidationError as error:
        raise Refused(422, explain(error)) from error
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the request is not valid JSON") from error


def _is_text(text: Text) -> bool:
    if isinstance(text, str):
        return True
    return all(isinstance(message.get(key), str) for message in text for key in ("role", "content"))


def _check_texts(prompts: Sequence[Text], responses: Sequence[Text], limits: Limits) -> None:
    if len(responses) > limits.texts:
        raise Refused(413, f"{len(responses)} texts in a request, of at most {limits.texts}")
    for place, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if not (_is_text(prompt) and _is_text(response)):
            raise Refused(422, f"text {place}: a message needs `role` and `content`, both text")
        size = len(as_text(prompt)) + len(as_text(response))
        if size > limits.characters:
            raise Refused(413, f"text {place} has {size:,} characters, of at most {limits.characters:,}")


def _split(query: str, prompt: str) -> tuple[str, str]:
    """OpenRLHF's query as prompt and response; where the prompt is not its beginning, all of it is scored."""
    return (prompt, query[len(prompt) :]) if query.startswith(prompt) else ("", query)
