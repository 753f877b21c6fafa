"""The application that `openenv.yaml` names. Put your own tasks, rules and reward here.

Run: uv run server
"""

from envs.adapters.openenv_server import make_app, serve

app = make_app("needle", max_sessions=64)


def main() -> None:
    """Serve on port 8000, to other machines too."""
    serve(app, host="0.0.0.0", port=8000)


if __name__ == "__main__":
    main()
