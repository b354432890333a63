"""`m3-worker`: a worker for environment `process`, as a TaskManager starts it.

Beam's own boot program comes in its container images only. This one is told where the engine listens, by the same
arguments, and runs Beam's worker in this process.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import argparse
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Work for the engine that started this process, until it ends the connection."""
    parser = argparse.ArgumentParser(description="a Beam worker of threefold", allow_abbrev=False)
    parser.add_argument("--id", required=True)
    for name in ("control", "provision"):
        parser.add_argument(f"--{name}_endpoint", default="")
    given, _ = parser.parse_known_args(arguments)
    control = given.control_endpoint or _control(given.provision_endpoint, given.id)

    from apache_beam.runners.worker.sdk_worker import SdkHarness

    SdkHarness(control, worker_id=given.id).run()


def _control(provision_endpoint: str, worker: str) -> str:
    """Where the engine's control listens, asked of its provisioning service."""
    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
    from apache_beam.runners.worker.worker_id_interceptor import WorkerIdInterceptor

    with grpc.insecure_channel(provision_endpoint) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(
            grpc.intercept_channel(channel, WorkerIdInterceptor(worker))
        )
        info = stub.GetProvisionInfo(beam_provision_api_pb2.GetProvisionInfoRequest(), timeout=60).info
    return str(info.control_endpoint.url)


if __name__ == "__main__":
    main()
