"""The service from Python: `Client` and `AsyncClient` over httpx, typed by the models behind the OpenAPI document."""

from pipelines.client.client import AsyncClient, Client
from pipelines.client.errors import ServiceError

__all__ = ["AsyncClient", "Client", "ServiceError"]
