"""What a failed call of pymilvus means, from its code: never from its text, which may quote a row."""

from __future__ import annotations

from enum import StrEnum

import grpc
from pymilvus import MilvusException
from pymilvus.exceptions import DataNotMatchException, DataTypeNotMatchException, ParamError


class Code(StrEnum):
    """Kinds of failures that are told apart."""

    LATE = "late"
    UNREACHABLE = "unreachable"
    BUSY = "busy"
    TOO_LARGE = "too large"
    REFUSED_US = "refused us"
    NO_COLLECTION = "no collection"
    NOT_LOADED = "not loaded"
    BAD_INPUT = "bad input"
    OTHER = "other"


_STATUS = grpc.StatusCode
_OF_GRPC = {
    _STATUS.DEADLINE_EXCEEDED: Code.LATE,
    _STATUS.UNAVAILABLE: Code.UNREACHABLE,
    _STATUS.CANCELLED: Code.UNREACHABLE,
    _STATUS.UNKNOWN: Code.UNREACHABLE,  # a connection that was reset in the middle of an answer
    _STATUS.INTERNAL: Code.UNREACHABLE,
    _STATUS.RESOURCE_EXHAUSTED: Code.TOO_LARGE,  # a message beyond the server's limit; rate limits have a code below
    _STATUS.UNAUTHENTICATED: Code.REFUSED_US,
    _STATUS.PERMISSION_DENIED: Code.REFUSED_US,
}
# Milvus (pkg/util/merr): 8 rate limit, 100 and 101 collection, 1100 parameter, 1400 and 1401 credentials. The client's
# own: 2 for "cannot connect". Milvus Lite: 6 for an invalid row or expression.
_NOT_CONNECTED = 2
_OF_MILVUS = {
    _NOT_CONNECTED: Code.UNREACHABLE,
    6: Code.BAD_INPUT,
    8: Code.BUSY,
    100: Code.NO_COLLECTION,
    101: Code.NOT_LOADED,
    1100: Code.BAD_INPUT,
    1400: Code.REFUSED_US,
    1401: Code.REFUSED_US,
}


def code_of(error: Exception) -> Code:
    """What went wrong with a call."""
    if isinstance(error, MilvusException):
        return _of_milvus(error)
    if isinstance(error, grpc.RpcError) and callable(code := getattr(error, "code", None)):
        return _OF_GRPC.get(code(), Code.OTHER)
    return Code.OTHER


def _of_milvus(error: MilvusException) -> Code:
    if isinstance(error, DataNotMatchException | DataTypeNotMatchException | ParamError):
        return Code.BAD_INPUT  # found by the client, before anything was sent
    if isinstance(error.code, grpc.StatusCode):
        return _OF_GRPC.get(error.code, Code.OTHER)
    if error.code == _NOT_CONNECTED and _refused_at_the_door(error):
        return Code.REFUSED_US
    known = _OF_MILVUS.get(error.code, Code.OTHER)
    return Code.BUSY if known is Code.OTHER and error.retriable else known


def _refused_at_the_door(error: MilvusException) -> bool:
    """Whether the client cannot connect for want of a right, which it tells only by what it was raised from."""
    cause = error.__cause__ or error.__context__
    return isinstance(cause, grpc.RpcError) and code_of(cause) is Code.REFUSED_US
