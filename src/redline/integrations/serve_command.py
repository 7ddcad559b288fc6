"""``redline serve-reward``: a reward model behind HTTP."""

import os
import secrets
from importlib.util import find_spec

from redline.console import say
from redline.errors import UserError
from redline.listening import listen

TOKEN_VARIABLE = "REDLINE_REWARD_TOKEN"  # noqa: S105 (a variable's name)


def serve_reward(name: str, host: str, port: int, batch: int, waiting: int) -> None:
    """Load the reward model and answer until stopped. The token comes from the environment, or is made up
    and printed. Raises UserError where it cannot be served."""
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise UserError('serve-reward: the server is not installed. Run: pip install "redline[web]"')
    import uvicorn

    from redline.integrations.server import Limits, reward_app
    from redline.reward.token_reward import TokenReward

    token = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(24)
    app = reward_app(TokenReward.from_pretrained(name), token, Limits(batch=batch, waiting=waiting))
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    listening = listen(host, port)
    place = f"http://{host}:{listening.getsockname()[1]}"
    lines = [f"serving {name} at {place} (POST /score, /openrlhf, /slime)"]
    if TOKEN_VARIABLE not in os.environ:
        lines.append(f"token: {token} (set {TOKEN_VARIABLE} to choose it)")
    for line in lines:
        say(line)
    uvicorn.Server(config).run(sockets=[listening])
