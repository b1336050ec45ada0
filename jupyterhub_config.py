"""Replay's reference configuration, for the hub and for its build service: both read this file.

Settings come from the environment, all optional but the first two:

    REPLAY_OIDC_CLIENT_ID            the client registered at Check-in
    REPLAY_OIDC_CLIENT_SECRET_FILE   a file with its secret
    REPLAY_OIDC_ISSUER               EGI Check-in
    REPLAY_URL                       http://127.0.0.1:8000   where people reach the hub
    REPLAY_BIND_URL                  REPLAY_URL              where the hub's proxy listens, with TLS ending before it
    REPLAY_STATE_DIR                 ./replay-state          databases, secrets, environments, sessions
    REPLAY_PORTS                     8081,8001,10101         hub, proxy's API, build service; on loopback
    REPLAY_VOS                       EGI Replay's, see below; VO=ENROLMENT-URL, separated by spaces
    REPLAY_ALLOWED_HOSTS             public forges           hosts that repositories may come from, by commas
    REPLAY_EXEMPT_ORIGINS                                    origins asked although private or not HTTPS, by commas
    REPLAY_BUILDER                   venv                    docker: builds and sessions are containers of an engine
    REPLAY_PYTHON_DOWNLOADS          0                       1: uv may download the Python a repository asks for
    REPLAY_UV_CACHE                  in the state folder     uv's cache of downloads
    REPLAY_BUILD_ENVIRONMENT                                 names of variables handed to builds, by commas
    REPLAY_MEM_GUARANTEE             2G                      of each session
    REPLAY_MEM_LIMIT                 4G                      of each session
    REPLAY_IDLE_SECONDS              3600                    a session without activity is stopped after that
    REPLAY_ORDINARY_SERVERS          1                       0: the hub starts servers from links only
    REPLAY_KEEP_SERVERS              1                       0: sessions and builds end with the hub
    REPLAY_PROXY_COMMAND             configurable-http-proxy

With REPLAY_BUILDER=docker also:

    REPLAY_DOCKER_HOST               unix:///var/run/docker.sock
    REPLAY_DOCKER_CONFIG             ~/.docker               folder with the registry's credentials
    REPLAY_REGISTRY                                          https://host[:port][/prefix]; without one, images stay in the engine
    REPLAY_HUB_ADDRESS               172.17.0.1              where the hub listens for containers: the engine's bridge
    REPLAY_HUB_NAME                  REPLAY_HUB_ADDRESS      what containers call it
    REPLAY_SESSION_NETWORK           the engine's default    network of sessions, see docs/builders.md
    REPLAY_BASE_IMAGE                repo2docker's           what images stand on
    REPLAY_REPO2DOCKER_CONFIG                                a configuration file of repo2docker
    REPLAY_BUILD_NETWORK             the engine's default    network of builds' steps
    REPLAY_BUILD_MEMORY_LIMIT                                of all steps of a build together; needs root, see docs/builders.md
    REPLAY_BUILD_PROCESS_LIMIT                               as above

SSL_CERT_FILE, where it is set, is handed to the build service, and to builds of REPLAY_BUILDER=venv: a site's own
certificate authorities.
"""

import os
import sys
from pathlib import Path

from replay_auth import EGICheckinAuthenticator
from replay_build_service.kept_secrets import UnusableSecret, kept_secret
from replay_spawner import hub_templates, link_handlers

c = get_config()  # noqa: F821 - the name is given by traitlets


def setting(name: str, default: str = "") -> str:
    return os.environ.get(f"REPLAY_{name}", default)


def listed(name: str) -> list[str]:
    return [part.strip() for part in setting(name).split(",") if part.strip()]


state = Path(setting("STATE_DIR", "replay-state")).resolve()
state.mkdir(parents=True, exist_ok=True, mode=0o700)
hub_port, proxy_api_port, service_port = setting("PORTS", "8081,8001,10101").split(",")
public_url = setting("URL", "http://127.0.0.1:8000")

# The virtual organisations that EGI Replay serves. Their pages in EGI's Operations Portal say how one enrols.
EGI_VOS = """
    vo.notebooks.egi.eu vo.access.egi.eu auger biomed vo.reliance-project.eu eiscat.se eval.c-scale.eu vo.panosc.eu
    vo.environmental.egi.eu vo.lethe-project.eu vo.cessda.eduteams.org
"""
egi_vos = {vo: f"https://operations-portal.egi.eu/vo/view/voname/{vo}" for vo in EGI_VOS.split()}
vos = {entry.partition("=")[0]: entry.partition("=")[2] for entry in setting("VOS").split()} or egi_vos

# ---- The hub ---------------------------------------------------------------------------------------------------------

c.JupyterHub.bind_url = setting("BIND_URL", public_url)
in_containers = setting("BUILDER", "venv") == "docker"
hub_address = setting("HUB_ADDRESS", "172.17.0.1" if in_containers else "127.0.0.1")
c.JupyterHub.hub_bind_url = f"http://{hub_address}:{hub_port}"
c.JupyterHub.hub_connect_url = f"http://{setting('HUB_NAME', hub_address)}:{hub_port}"
c.JupyterHub.db_url = f"sqlite:///{state / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(state / "jupyterhub_cookie_secret")
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{proxy_api_port}"
c.ConfigurableHTTPProxy.pid_file = str(state / "jupyterhub-proxy.pid")
c.ConfigurableHTTPProxy.command = setting("PROXY_COMMAND", "configurable-http-proxy").split()
# A launch is followed by its events: the request that starts it need not wait.
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
c.JupyterHub.cleanup_servers = setting("KEEP_SERVERS", "1") == "0"
c.JupyterHub.default_url = "/services/replay/"

# ---- Who may enter: EGI Check-in, and one of the virtual organisations -------------------------------------------------

c.JupyterHub.authenticator_class = EGICheckinAuthenticator
c.EGICheckinAuthenticator.auto_login = True
if issuer := setting("OIDC_ISSUER"):
    c.EGICheckinAuthenticator.issuer = issuer
client_id, secret_file = setting("OIDC_CLIENT_ID"), setting("OIDC_CLIENT_SECRET_FILE")
if not (client_id and secret_file):
    sys.exit(
        "Set REPLAY_OIDC_CLIENT_ID and REPLAY_OIDC_CLIENT_SECRET_FILE: the client that you registered at EGI Check-in."
    )
c.EGICheckinAuthenticator.client_id = client_id
c.EGICheckinAuthenticator.client_secret = Path(secret_file).read_text().strip()
c.EGICheckinAuthenticator.oauth_callback_url = f"{public_url}/hub/oauth_callback"
c.EGICheckinAuthenticator.permitted_vos = vos
c.EGICheckinAuthenticator.enable_auth_state = True
try:
    c.CryptKeeper.keys = [kept_secret(state / "auth_state_key")]
except UnusableSecret as unusable:
    sys.exit(str(unusable))

# ---- What runs: sessions as containers, or as processes of this machine --------------------------------------------------

service_url = f"http://127.0.0.1:{service_port}/services/replay/"
token_file = str(state / "service_token")
c.ReplayMixin.replay_service_url = service_url
c.ReplayMixin.replay_token_file = token_file
c.ReplayMixin.replay_ordinary_servers = setting("ORDINARY_SERVERS", "1") == "1"
c.Spawner.default_url = "/lab"
docker_host = setting("DOCKER_HOST", "unix:///var/run/docker.sock")
if in_containers:
    c.JupyterHub.spawner_class = "replay_spawner.docker.ReplayDockerSpawner"
    c.DockerSpawner.client_kwargs = {"base_url": docker_host}
    if network := setting("SESSION_NETWORK"):
        c.DockerSpawner.network_name = network
    if docker_config := setting("DOCKER_CONFIG"):
        os.environ["DOCKER_CONFIG"] = docker_config  # Where the engine's client looks for credentials.
else:
    c.JupyterHub.spawner_class = "replay_spawner.local.ReplayLocalSpawner"
    c.ReplayLocalSpawner.sessions_dir = str(state / "sessions")

# ---- The build service, as a service of the hub ------------------------------------------------------------------------

inherited = [name for name in os.environ if name.startswith("REPLAY_")]
passed_on = [*inherited, *listed("BUILD_ENVIRONMENT"), "SSL_CERT_FILE", "PYTHONPATH"]
c.JupyterHub.services = [
    {
        "name": "replay",
        "url": f"http://127.0.0.1:{service_port}",
        "command": [sys.executable, "-m", "replay_build_service.app", "run", "--config", __file__],
        "environment": {name: os.environ[name] for name in passed_on if name in os.environ},
        "oauth_no_confirm": True,
    },
    {
        "name": "idle-culler",
        "environment": {"REPLAY_STATE_DIR": str(state)},
        "command": [
            sys.executable,
            "-m",
            "jupyterhub_idle_culler",
            f"--timeout={setting('IDLE_SECONDS', '3600')}",
            f"--cull-every={max(1, min(300, int(setting('IDLE_SECONDS', '3600')) // 4))}",
        ],
    },
]
c.JupyterHub.load_roles = [
    {"name": "user", "scopes": ["self", "access:services!service=replay"]},
    {"name": "replay", "services": ["replay"], "scopes": ["servers", "read:servers", "read:users:name"]},
    {
        "name": "idle-culler",
        "services": ["idle-culler"],
        "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
    },
]
# Links are answered by the hub, also where the service does not answer; badges by the service.
c.JupyterHub.extra_handlers = link_handlers(service_url, token_file)
c.JupyterHub.template_paths = [hub_templates()]
c.Proxy.extra_routes = {
    "/badge_logo.svg/": f"http://127.0.0.1:{service_port}",
    "/badge.svg/": f"http://127.0.0.1:{service_port}",
}

# ---- The build service's own settings: it reads this same file ---------------------------------------------------------

c.ReplayBuildService.state_dir = str(state)
c.ReplayBuildService.token_file = token_file
c.ReplayBuildService.public_url = public_url
c.ReplayBuildService.vos = vos
c.ReplayBuildService.mem_guarantee = setting("MEM_GUARANTEE", "2G")
c.ReplayBuildService.mem_limit = setting("MEM_LIMIT", "4G")
if hosts := listed("ALLOWED_HOSTS"):
    c.ReplayBuildService.allowed_hosts = hosts
c.ReplayBuildService.exempt_origins = listed("EXEMPT_ORIGINS")
c.ReplayBuildService.builder = setting("BUILDER", "venv")
c.ReplayBuildService.python_downloads = setting("PYTHON_DOWNLOADS", "0") == "1"
c.ReplayBuildService.uv_cache_dir = setting("UV_CACHE")
c.ReplayBuildService.build_environment = {
    name: os.environ[name] for name in [*listed("BUILD_ENVIRONMENT"), "SSL_CERT_FILE"] if name in os.environ
}
c.ReplayBuildService.stop_builds_on_exit = setting("KEEP_SERVERS", "1") == "0"
c.ReplayBuildService.docker_host = docker_host
for name in ("docker_config", "registry", "base_image", "repo2docker_config", "build_network", "build_memory_limit"):
    if value := setting(name.upper()):
        setattr(c.ReplayBuildService, name, value)
if processes := setting("BUILD_PROCESS_LIMIT"):
    c.ReplayBuildService.build_process_limit = int(processes)
