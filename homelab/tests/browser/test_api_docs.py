"""Swagger UI works where the hub is all there is: nothing asked of anybody else, nothing the policy forbids."""

import re

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


@pytest.fixture
def docs(page, hub: str):
    """The page of all calls; the page itself fails the test where the console complains."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/api/docs")
    page.locator(".opblock").first.wait_for()
    yield page
    assert [url for url in asked if not url.startswith(f"{hub}/")] == []


def test_every_call_opens(docs):
    calls = docs.locator(".opblock-summary-control")
    assert calls.count() >= 15
    for call in calls.all():
        call.click()
    docs.locator(".opblock.is-open .response-col_description").last.wait_for()
    expect(docs.locator(".opblock.is-open")).to_have_count(calls.count())


def test_a_call_can_be_tried_out_with_the_session_that_is_signed_in(docs):
    docs.locator("#operations-servers-servers_list .opblock-summary-control").click()
    docs.locator("#operations-servers-servers_list .try-out__btn").click()
    docs.locator("#operations-servers-servers_list .execute").click()
    answer = docs.locator("#operations-servers-servers_list .live-responses-table .response-col_status").last
    expect(answer).to_have_text(re.compile("^200"))


def test_a_key_can_be_given(docs):
    docs.locator(".btn.authorize").click()
    docs.locator(".dialog-ux input").first.fill("0123456789.key")
    docs.locator(".dialog-ux .btn.authorize").first.click()
    expect(docs.locator(".dialog-ux .btn", has_text="Logout")).to_be_visible()
