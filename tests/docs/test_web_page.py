"""docs/guide/web.md: the sites of the page run, and admit signed-in users only."""

import re

import pytest

from tamatar_auth.client import AAL2
from tests.support.commands import ROOT
from tests.support.web import running_site

PAGE = (ROOT / "docs/guide/web.md").read_text()
FASTAPI, STEP_UP, STARLETTE, DJANGO = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE)
ADDRESS = "auth.example.com:50051"
UVICORN = ("-m", "uvicorn", "--fd", "FD", "website:app")

DJANGO_SITE = """
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path
from tamatar_auth.client import current_session

def orders(request):
    return HttpResponse(f"The orders of {current_session().user.email}")

def health(request):
    return HttpResponse("ok")

settings.configure(ALLOWED_HOSTS=["*"], MIDDLEWARE=["sessions.guarded"], ROOT_URLCONF=__name__)
urlpatterns = [path("orders", orders), path("health", health)]
app = get_asgi_application()
"""


@pytest.fixture
def bearer(fake):
    token = fake.start_session(fake.add_user("ada@example.com"))
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("files", "is_health_open"),
    [
        ({"website.py": FASTAPI + STEP_UP}, True),
        ({"website.py": STARLETTE}, False),
        ({"website.py": DJANGO_SITE, "sessions.py": DJANGO}, True),
    ],
    ids=["fastapi", "starlette", "django"],
)
def test_web_page_site_admits_signed_in_user(fake, bearer, tmp_path, files, is_health_open):
    assert ADDRESS in "".join(files.values())
    for name, code in files.items():
        (tmp_path / name).write_text(code.replace(ADDRESS, fake.address))
    with running_site(tmp_path, *UVICORN, AUTH_TOKEN="tmc_of_this_site") as site:
        assert "The orders of ada@example.com" in site.ask("/orders", **bearer).body
        assert site.ask("/orders").json["reason"] == "SESSION_UNKNOWN"
        if is_health_open:
            assert site.ask("/health").status == 200


def test_web_page_route_needs_step_up(fake, tmp_path):
    (tmp_path / "website.py").write_text((FASTAPI + STEP_UP).replace(ADDRESS, fake.address))
    ada = fake.add_user("ada@example.com")
    weak, strong = fake.start_session(ada), fake.start_session(ada, level=AAL2)
    with running_site(tmp_path, *UVICORN, AUTH_TOKEN="tmc_of_this_site") as site:
        paid, refused = (
            site.ask("/orders/7/pay", method="POST", Authorization=f"Bearer {token}")
            for token in (strong, weak)
        )
    assert paid.json == "ada@example.com paid order 7"
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"].endswith('acr_values="AAL2"')
