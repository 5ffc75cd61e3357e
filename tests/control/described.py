# SPDX-License-Identifier: Apache-2.0
"""Clients that compare each answer with docs/openapi.json: what that does not describe fails."""
import contextlib
import json

import jsonschema

import control
import tap

FILE = tap.SOURCE / "docs" / "openapi.json"
ROUTES = tap.SOURCE / "src" / "control" / "routes.c"
DOCUMENT = json.loads(FILE.read_text(encoding="utf-8"))
DIALECT = jsonschema.Draft202012Validator

# What transfers.py answers for; the rest is api.py's.
MOVES = {
    ("POST", "/v1/grants"),
    ("GET", "/v1/grants"),
    ("GET", "/v1/grants/{id}"),
    ("DELETE", "/v1/grants/{id}"),
    ("POST", "/v1/grants/{id}/pull"),
    ("POST", "/v1/streams"),
    ("GET", "/v1/streams"),
    ("GET", "/v1/streams/{id}"),
    ("DELETE", "/v1/streams/{id}"),
    ("POST", "/v1/streams/{id}/ready"),
    ("POST", "/v1/offers"),
    ("POST", "/v1/pools/{id}/checksum"),
}

# (method, path) of operations that were answered with success, to see that a test left none out.
answered = set()


def resolve(thing):
    """What a reference within the file stands for."""
    while "$ref" in thing and set(thing) == {"$ref"}:
        found = DOCUMENT
        for name in thing["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        thing = found
    return thing


def expect_valid(value, schema):
    """References are looked up in the schema itself, so it gets the file's components."""
    whole = dict(schema, components=DOCUMENT["components"])
    errors = [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:500]}"
        for error in DIALECT(whole).iter_errors(value)
    ]
    assert not errors, "\n".join(errors) + f"\nin {json.dumps(value)[:2000]}"


def component(name):
    return {"$ref": f"#/components/schemas/{name}"}


def template(path):
    """The path of the file that this one is of; None: the file has none."""
    words = path.partition("?")[0].split("/")
    for known in DOCUMENT["paths"]:
        parts = known.split("/")
        if len(parts) == len(words) and all(
            part == word or (part == "{id}" and word.isdigit())
            for part, word in zip(parts, words)
        ):
            return known
    return None


def expect_problem(answer, status):
    assert answer.status == status, f"{answer.status} in place of {status}: {answer.data[:500]}"
    assert answer.headers["Content-Type"] == "application/problem+json", answer.headers
    expect_valid(answer.json, component("Problem"))
    assert answer.json["status"] == status, answer.json


def expect_described(method, path, body, answer):
    """The answer is one that the file has for this request, which is one too if it was taken."""
    known = template(path)
    if known is None:
        return expect_problem(answer, 404)
    operation = DOCUMENT["paths"][known].get(method.lower())
    if operation is None:
        expect_problem(answer, 405)
        allowed = {word.strip().lower() for word in answer.headers["Allow"].split(",")}
        assert allowed - {"head", "options"} == set(DOCUMENT["paths"][known]), allowed
        return None
    where = f"{method} {path}: {answer.status}"
    assert str(answer.status) in operation["responses"], f"{where} is not described"
    response = resolve(operation["responses"][str(answer.status)])
    kind = (answer.headers["Content-Type"] or "").partition(";")[0]
    if not response.get("content"):
        assert not answer.data, f"{where}: has a body"
    else:
        assert kind in response["content"], f"{where}: {kind} is not described"
        if kind.endswith("json"):
            expect_valid(answer.json, response["content"][kind]["schema"])
    if answer.status < 300:
        answered.add((method, known))
        if body is not None:
            expect_valid(body, resolve(operation["requestBody"])["content"]["application/json"]
                         ["schema"])  # fmt: skip
    return None


class Client(control.Client):
    def send(self, method, path, body=None, headers=None, raw=None):
        self.asked = (method, path, body)
        super().send(method, path, body, headers=headers, raw=raw)

    def answer(self):
        answer = super().answer()
        expect_described(*self.asked, answer)
        return answer


class Host(control.Host):
    def client(self):
        return Client(self.path)


@contextlib.contextmanager
def hosts(*names, options=(), **more):
    """Hosts of these names with a unix socket each, pools filled."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                Host(f"name={name}", f"control={control.fresh('s.sock')}", "--fill", *options,
                     **more)
            )
            for name in names
        ]  # fmt: skip
