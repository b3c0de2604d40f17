"""A blocking HTTP client for the node's own server, and a reader of its metrics.

Any thread. Every wait is bounded.
"""

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from tests.support.net import ANSWER_TIMEOUT_S, Endpoint
from tests.support.node import Node

HTTP = {"enabled": True}

Sample = tuple[str, tuple[tuple[str, str], ...]]  # name, sorted labels


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


def ask(url: str, path: str, method: str = "GET") -> Answer:
    """One exchange on a connection of its own. url: of the server; path: with its slash."""
    place = urlsplit(url)
    assert place.hostname is not None
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())
    finally:
        connection.close()


def scrape(url: str) -> dict[Sample, float]:
    """Every sample of /metrics, read by Prometheus's own parser."""
    answer = ask(url, "/metrics")
    assert answer.status == 200, answer.text
    return samples_of(answer.text)


def samples_of(text: str) -> dict[Sample, float]:
    """Every sample of an exposition; none may occur twice."""
    samples: dict[Sample, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, f"{key} twice"
            samples[key] = sample.value
    return samples


def sample_value(samples: dict[Sample, float], name: str, **labels: str) -> float:
    """One sample."""
    return samples[name, tuple(sorted(labels.items()))]


def sum_of(samples: dict[Sample, float], name: str) -> float:
    """The sum of a metric over all its labels."""
    return sum(number for (one, _), number in samples.items() if one == name)


def status_json(url: str) -> dict[str, Any]:
    """What the status page is told."""
    answer = ask(url, "/status.json")
    assert answer.status == 200, answer.text
    told: dict[str, Any] = json.loads(answer.body)
    return told


def url_of(node: Node) -> str:
    assert node.server.url is not None
    return node.server.url


def place_of(url: str) -> Endpoint:
    place = urlsplit(url)
    assert place.hostname is not None
    assert place.port is not None
    return place.hostname, place.port
