"""Stands in for the network: answers what requests asks, from a dict, and counts what was asked."""

import io

import requests
import urllib3


class Hub:
    """Answers by the last part of the address: bytes, an exception, a status, or another address to go to."""

    def __init__(self, answers, monkeypatch):
        self.answers, self.asked, self.landed = answers, [], None
        monkeypatch.setattr(
            requests.adapters.HTTPAdapter,
            "send",
            lambda adapter, request, **options: self.send(adapter, request, options),
        )

    def send(self, adapter, request, options):
        assert options["timeout"] > 0
        if self.landed and request.url != self.landed:
            raw = urllib3.HTTPResponse(
                io.BytesIO(), status=302, headers={"Location": self.landed}, preload_content=False
            )
            return adapter.build_response(request, raw)
        self.asked.append(request.url)
        answer = self.answers[request.url.rsplit("/", 1)[1]]
        if isinstance(answer, Exception):
            raise answer
        content, status = (answer, 200) if isinstance(answer, bytes) else (b"", answer)
        head = {"Content-Length": str(len(content))}
        raw = urllib3.HTTPResponse(io.BytesIO(content), status=status, headers=head, preload_content=False)
        return adapter.build_response(request, raw)
