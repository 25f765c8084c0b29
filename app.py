"""Starts the service: `python app.py`. Also where `flask` finds the application."""

from jobquest import create_app

__all__ = ["create_app"]

if __name__ == "__main__":
    from jobquest.server import main

    main()
