"""`cache.url`: what is accepted, what is refused with which advice, and that no secret is quoted."""

from __future__ import annotations

import pytest

from gateway.config.store_url import Login, parse

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("redis://h?ssl=true", "use rediss://"),
        ("rediss://h?ssl=true", "remove it"),
        ("redis+sentinel://h/s?ssl=true", "use rediss+sentinel://"),
        ("redis+cluster://h?ssl=true", "use rediss+cluster://"),
        ("redis://h?decode_responses=true", "pages are stored as bytes"),
        ("redis://h?encoding=utf-8", "pages are stored as bytes"),
        ("redis://h?socket_timeout=1", "set cache.redis_timeout"),
        ("redis://h?health_check_interval=1", "remove it"),
        ("redis://h?max_conections=3", "remove it"),
        ("redis://h?protocol=3", "RESP2"),
        ("redis://h?password=s3cret", "before the host"),
        ("redis://h?retry_on_timeout=true", "not sent again"),
        ("redis://h?ssl_ca_certs=x", "use rediss://"),
        ("rediss://h?ssl_ca_cert=x", "did you mean ssl_ca_certs?"),
        ("rediss://h?ssl_min_version=x", "supported are"),
        ("rediss://h?ssl_cert_reqs=maybe", "required, optional, none"),
        ("rediss://h?ssl_check_hostname=perhaps", "true or false"),
        ("rediss://h?ssl_keyfile=x", "ssl_certfile"),
        ("redis://h?sentinel_password=s3cret", "belongs to redis+sentinel://"),
        ("redis+sentinel://h/s?sentinel_pasword=s3cret", "did you mean sentinel_password?"),
        ("redis+sentinel://h", "needs a service"),
        ("redis+sentinel://h/s/x", "not a number"),
        ("redis+sentinel://h1,/s", "needs a host"),
        ("redis+cluster://h/0", "only one"),
        ("redis+cluster://h?db=1", "only one"),
        ("redis://h/x", "not a number"),
        ("redis://h/-1", "not a number"),
        ("redis://h/0/1", "more than a database"),
        ("redis://h/0?db=1", "twice"),
        ("redis://h?db=1&db=2", "twice"),
        ("redis://h?db", "without a value"),
        ("redis://h?client_name=a%20b", "client_name"),
        ("redis://h#s3cret", "%23"),
        ("redis://:s3cret?x@h", "%3F"),
        ("redis://:s3cret/x@h", "%2F"),
        ("redis://s3cret@h", ":PASSWORD@HOST"),
        ("redis://h:0", "port 0"),
        ("redis://h:99999", "not valid"),
        ("redis://h1,h2", "several hosts"),
        ("redis://h\n", "printable"),
        ("memory://x", "nothing more"),
        ("unix:///tmp/s3cret", "must start with"),
    ],
)
def test_url_that_would_break_every_command_is_refused_with_advice(url: str, advice: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse(url)
    assert advice in str(refused.value)
    assert SECRET not in str(refused.value)


def test_parts_of_a_url_are_percent_decoded_and_have_defaults() -> None:
    store = parse(
        "rediss+sentinel://us%40er:p%2Fw@h1,[::1]:7/ser%20vice/3?sentinel_password=a%26b&ssl_check_hostname=False"
    )
    assert store.hosts == (("h1", 26379), ("::1", 7))
    assert (store.service, store.database, store.tls, store.sentinel) == ("ser vice", 3, True, True)
    assert (store.login, store.sentinel_login) == (Login("us@er", "p/w"), Login("", "a&b"))
    assert store.tls_options == {"ssl_check_hostname": False}
    assert "p/w" not in repr(store)
    assert parse("redis://").hosts == (("localhost", 6379),)
    assert parse("redis://h?db=2&client_name=gw").database == 2


def test_urls_that_differ_in_logins_alone_name_the_same_store() -> None:
    one, other = parse("redis://u:a@h/1"), parse("redis://v:b@h/1")
    assert one != other
    assert one.without_logins() == other.without_logins() != parse("redis://u:a@h/2").without_logins()
