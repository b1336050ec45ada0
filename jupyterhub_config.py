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
    REPLAY_POLICIES                                          a file with a policy for each VO, in place of REPLAY_VOS and of the
                                                             memory below; and with its managers: docs/policies.md
    REPLAY_MEMBERSHIP_SECONDS        300                     so soon a lost VO ends access: docs/access.md
    REPLAY_MEMBERSHIP_GRACE          3600                    so long a VO is believed that cannot be looked up
    REPLAY_SCRIPT_AUDIENCES                                  clients whose access tokens scripts may bring, by commas
    REPLAY_TOKEN_BY                  auto                    exchange or refresh: how sessions get access tokens, docs/access.md
    REPLAY_TOKEN_SCOPES, REPLAY_TOKEN_AUDIENCE               what those are good for, scopes by commas
    REPLAY_TOKEN_REVOKE              1                       0: those are not given back when sessions end
    REPLAY_ALLOWED_HOSTS             public forges           hosts that repositories may come from, by commas
    REPLAY_ARCHIVE_HOSTS             public archives         the same for records; none where only the line above is set
    REPLAY_DATAVERSE_INSTALLATIONS                           a file of Dataverses beside those that Replay knows: docs/archives.md
    REPLAY_SOURCE_TOKENS_FILE                                a file of tokens for archives' APIs: docs/archives.md
    REPLAY_GITLAB_HOSTS                                      GitLabs beside gitlab.com, by commas
    REPLAY_EXEMPT_ORIGINS                                    origins asked although private or not HTTPS, by commas
    REPLAY_BUILDER                   venv                    docker: builds and sessions are containers of an engine;
                                                             kubernetes: they are pods
    REPLAY_PYTHON_DOWNLOADS          0                       1: uv may download the Python a repository asks for
    REPLAY_UV_CACHE                  in the state folder     uv's cache of downloads
    REPLAY_BUILD_ENVIRONMENT                                 names of variables handed to builds, by commas
    REPLAY_MEM_GUARANTEE             2G                      of each session
    REPLAY_MEM_LIMIT                 4G                      of each session
    REPLAY_CPU_GUARANTEE                                     cores of each session, such as 0.5
    REPLAY_CPU_LIMIT                                         cores of each session
    REPLAY_FEATURES                  token, datahub          what sessions can get, by commas; datahub with REPLAY_ONEZONE_URL
    REPLAY_ONEZONE_URL                                       https://datahub.egi.eu, for sessions with spaces of the DataHub
    REPLAY_ONEPROVIDER                                       host of the Oneprovider whose spaces they get
    REPLAY_ONEZONE_CA_FILE                                   certificates of a DataHub with an authority of its own
    REPLAY_IDLE_SECONDS              3600                    a session without activity is stopped after that
    REPLAY_ORDINARY_SERVERS          1                       0: the hub starts servers from links only
    REPLAY_KEEP_SERVERS              1                       0: sessions and builds end with the hub
    REPLAY_PROXY_COMMAND             configurable-http-proxy
    REPLAY_METRICS_ADDRESS                                   host:port at which Prometheus finds the service's metrics
    REPLAY_EXTRA_CONFIG                                      a folder: its *.py are run after this file, by their names

With REPLAY_HUB=zero-to-jupyterhub the hub is that of the chart of this name, with charts/replay/values-z2jh.yaml over its
values, and the service is in a pod of its own, as charts/replay has it. Then addresses, ports, database, proxy, services
and roles are those charts' own, but for the culler; and so is the login where there is no REPLAY_OIDC_CLIENT_ID. Also there are:

    REPLAY_SERVICE_URL               http://127.0.0.1:10101  where the hub and its proxy reach the service
    REPLAY_TOKEN_FILE                in the state folder     the token that hub and service share
    REPLAY_API_TOKEN_FILE                                    the service's token for the hub's API

With REPLAY_BUILDER=docker or kubernetes also:

    REPLAY_DOCKER_CONFIG             ~/.docker               folder with the registry's credentials
    REPLAY_REGISTRY                                          https://host[:port][/prefix]; without one, images stay in the engine
    REPLAY_HUB_ADDRESS               172.17.0.1              where the hub listens for containers and pods
    REPLAY_HUB_NAME                  REPLAY_HUB_ADDRESS      what containers and pods call it
    REPLAY_BASE_IMAGE                repo2docker's           what images stand on
    REPLAY_REPO2DOCKER_CONFIG                                a configuration file of repo2docker
    REPLAY_BUILD_NETWORK             the engine's default    network of builds' steps
    REPLAY_BUILD_CGROUP_PARENT                               a control group on the engine's machine, with limits of yours

With REPLAY_BUILDER=kubernetes also, as in docs/kubernetes.md (those of builds as ReplayBuildService has them, lists and
mappings as JSON):

    KUBECONFIG                       the pod's account       how the cluster is reached
    REPLAY_NAMESPACE                 the pod's               where sessions run
    REPLAY_BUILD_NAMESPACE           the pod's               where builds run
    REPLAY_BUILDER_IMAGE, REPLAY_BUILDER_IMAGE_PULL_POLICY, REPLAY_BUILD_ENGINE_SOCKET, REPLAY_BUILD_ENGINE_DATA,
    REPLAY_BUILD_ENGINE_PODS, REPLAY_BUILD_NODE_SELECTOR, REPLAY_BUILD_TOLERATIONS, REPLAY_BUILD_RESOURCES,
    REPLAY_BUILD_DNS_POLICY, REPLAY_BUILD_PUSH_SECRET, REPLAY_BUILD_PULL_SECRETS, REPLAY_BUILD_CA_CONFIG_MAP,
    REPLAY_BUILD_PRIORITY_CLASS, REPLAY_BUILD_POD_WAIT

With REPLAY_BUILDER=docker also:

    REPLAY_DOCKER_HOST               unix:///var/run/docker.sock
    REPLAY_SESSION_NETWORK           the engine's default    network of sessions, see docs/builders.md
    REPLAY_BUILD_MEMORY_LIMIT                                of all steps of a build together; needs root, see docs/builders.md
    REPLAY_BUILD_PROCESS_LIMIT                               as above

SSL_CERT_FILE, where it is set, is handed to the build service, and to builds of REPLAY_BUILDER=venv: a site's own
certificate authorities.
"""

import json
import os
import sys
from pathlib import Path

from replay_auth import EGICheckinAuthenticator
from replay_build_service.kept_secrets import UnusableSecret, kept_secret
from replay_build_service.policy_file import UnusablePolicies, read_policies
from replay_spawner import hub_templates, link_handlers
from replay_spawner.idle import culler_role, culler_service

c = get_config()  # noqa: F821 - the name is given by traitlets


def setting(name: str, default: str = "") -> str:
    return os.environ.get(f"REPLAY_{name}", default)


def listed(name: str) -> list[str]:
    return [part.strip() for part in setting(name).split(",") if part.strip()]


if setting("HUB") not in {"", "zero-to-jupyterhub"}:
    sys.exit("REPLAY_HUB is zero-to-jupyterhub, or not set at all: then all of the hub is configured here.")
is_whole_hub = not setting("HUB")
state = Path(setting("STATE_DIR", "replay-state")).resolve()
if is_whole_hub:
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
hub_port, proxy_api_port, service_port = setting("PORTS", "8081,8001,10101").split(",")
public_url = setting("URL", "http://127.0.0.1:8000" if is_whole_hub else "")
service_url = setting("SERVICE_URL", f"http://127.0.0.1:{service_port}")
token_file = setting("TOKEN_FILE", str(state / "service_token"))
builder = setting("BUILDER", "venv")

# The virtual organisations that EGI Replay serves. Their pages in EGI's Operations Portal say how one enrols.
EGI_VOS = """
    vo.notebooks.egi.eu vo.access.egi.eu auger biomed vo.reliance-project.eu eiscat.se eval.c-scale.eu vo.panosc.eu
    vo.environmental.egi.eu vo.lethe-project.eu vo.cessda.eduteams.org
"""
egi_vos = {vo: f"https://operations-portal.egi.eu/vo/view/voname/{vo}" for vo in EGI_VOS.split()}
vos = {entry.partition("=")[0]: entry.partition("=")[2] for entry in setting("VOS").split()} or egi_vos
policies = None
if policy_file := setting("POLICIES"):
    try:
        policies = read_policies(policy_file)
    except UnusablePolicies as unusable:
        sys.exit(str(unusable))
    vos = policies.permitted_vos

# ---- The hub ---------------------------------------------------------------------------------------------------------

if is_whole_hub:
    c.JupyterHub.bind_url = setting("BIND_URL", public_url)
    in_containers = builder in {"docker", "kubernetes"}
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

client_id, secret_file = setting("OIDC_CLIENT_ID"), setting("OIDC_CLIENT_SECRET_FILE")
if is_whole_hub or client_id:
    if not (client_id and secret_file):
        sys.exit(
            "Set REPLAY_OIDC_CLIENT_ID and REPLAY_OIDC_CLIENT_SECRET_FILE: the client that you registered at EGI Check-in."
        )
    if not public_url:
        sys.exit("Set REPLAY_URL, https://…, where people reach the hub: Check-in sends them back there.")
    c.JupyterHub.authenticator_class = EGICheckinAuthenticator
    c.EGICheckinAuthenticator.auto_login = True
    if issuer := setting("OIDC_ISSUER"):
        c.EGICheckinAuthenticator.issuer = issuer
    c.EGICheckinAuthenticator.client_id = client_id
    c.EGICheckinAuthenticator.client_secret = Path(secret_file).read_text().strip()
    c.EGICheckinAuthenticator.oauth_callback_url = f"{public_url}/hub/oauth_callback"
    c.EGICheckinAuthenticator.permitted_vos = vos
    c.EGICheckinAuthenticator.vo_managers = policies.vo_managers if policies else {}
    c.EGICheckinAuthenticator.enable_auth_state = True
    c.EGICheckinAuthenticator.membership_seconds = float(setting("MEMBERSHIP_SECONDS", "300"))
    c.EGICheckinAuthenticator.membership_grace = float(setting("MEMBERSHIP_GRACE", "3600"))
    c.EGICheckinAuthenticator.script_audiences = listed("SCRIPT_AUDIENCES")
    c.EGICheckinAuthenticator.session_token_by = setting("TOKEN_BY", "auto")
    if scopes := listed("TOKEN_SCOPES"):
        c.EGICheckinAuthenticator.session_token_scopes = scopes
    c.EGICheckinAuthenticator.session_token_audience = setting("TOKEN_AUDIENCE")
    c.EGICheckinAuthenticator.revoke_session_tokens = setting("TOKEN_REVOKE", "1") == "1"
if is_whole_hub:
    try:
        c.CryptKeeper.keys = [kept_secret(state / "auth_state_key")]
    except UnusableSecret as unusable:
        sys.exit(str(unusable))

# ---- What runs: sessions as pods, as containers, or as processes of this machine ----------------------------------------

c.ReplayMixin.replay_service_url = f"{service_url}/services/replay/"
c.ReplayMixin.replay_token_file = token_file
c.ReplayMixin.replay_ordinary_servers = setting("ORDINARY_SERVERS", "1") == "1"
if is_whole_hub:
    c.Spawner.default_url = "/lab"
if onezone := setting("ONEZONE_URL"):
    c.DataHub.onezone_url, c.DataHub.oneprovider = onezone, setting("ONEPROVIDER")
    c.DataHub.ca_file = setting("ONEZONE_CA_FILE")
docker_host = setting("DOCKER_HOST", "unix:///var/run/docker.sock")
if builder == "kubernetes":
    c.JupyterHub.spawner_class = "replay_spawner.kube.ReplayKubeSpawner"
    if namespace := setting("NAMESPACE"):
        c.KubeSpawner.namespace = namespace
elif builder == "docker":
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

if is_whole_hub:
    inherited = [name for name in os.environ if name.startswith("REPLAY_")]
    passed_on = [*inherited, *listed("BUILD_ENVIRONMENT"), "KUBECONFIG", "SSL_CERT_FILE", "PYTHONPATH"]
    c.JupyterHub.services = [
        {
            "name": "replay",
            "url": f"http://127.0.0.1:{service_port}",
            "command": [sys.executable, "-m", "replay_build_service.app", "run", "--config", __file__],
            "environment": {name: os.environ[name] for name in passed_on if name in os.environ},
            "oauth_no_confirm": True,
            "oauth_client_allowed_scopes": ["access:servers!user"],  # For “Download my work”.
        },
    ]
    c.JupyterHub.load_roles = [
        {"name": "user", "scopes": ["self", "access:services!service=replay"]},
        {
            "name": "replay",
            "services": ["replay"],
            # The last two are for “replay-build-service policy explain” and “doctor” alone.
            "scopes": [
                "servers",
                "read:servers",
                "read:users:name",
                "read:users:groups",
                "read:services!service=idle-culler",
            ],
        },
    ]
if policies:
    c.JupyterHub.load_roles.extend(policies.load_roles())
c.JupyterHub.services.append(
    culler_service(int(setting("IDLE_SECONDS", "3600")), f"{service_url}/services/replay/", token_file)
)
c.JupyterHub.load_roles.append(culler_role())
# Links are answered by the hub, also where the service does not answer; badges by the service.
c.JupyterHub.extra_handlers.extend(link_handlers(f"{service_url}/services/replay/", token_file))
c.JupyterHub.template_paths.insert(0, hub_templates())
c.Proxy.extra_routes.update({f"/{badge}.svg/": service_url for badge in ("badge_logo", "badge")})

# ---- The build service's own settings: it reads this same file ---------------------------------------------------------

c.ReplayBuildService.state_dir = str(state)
c.ReplayBuildService.token_file = token_file
c.ReplayBuildService.api_token_file = setting("API_TOKEN_FILE")
c.ReplayBuildService.public_url = public_url
c.ReplayBuildService.metrics_address = setting("METRICS_ADDRESS")
c.ReplayBuildService.vos = vos
c.ReplayBuildService.policy_file = policy_file
if setting("ONEZONE_URL") and not setting("ONEPROVIDER"):
    sys.exit("Set REPLAY_ONEPROVIDER beside REPLAY_ONEZONE_URL: the host of the Oneprovider whose spaces sessions get.")
# The token is the login's to give, and DataHub is asked for with one.
usual_features = ["token"] * bool(client_id) + ["datahub"] * bool(client_id and setting("ONEZONE_URL"))
c.ReplayBuildService.features = listed("FEATURES") if "REPLAY_FEATURES" in os.environ else usual_features
c.ReplayBuildService.mem_guarantee = setting("MEM_GUARANTEE", "2G")
c.ReplayBuildService.mem_limit = setting("MEM_LIMIT", "4G")
for name in ("cpu_guarantee", "cpu_limit"):
    if cores := setting(name.upper()):
        setattr(c.ReplayBuildService, name, float(cores))
if hosts := listed("ALLOWED_HOSTS"):
    c.ReplayBuildService.allowed_hosts = hosts
# Who lists hosts means these and no others.
if hosts or listed("ARCHIVE_HOSTS"):
    c.ReplayBuildService.archive_hosts = listed("ARCHIVE_HOSTS")
c.ReplayBuildService.dataverse_installations = setting("DATAVERSE_INSTALLATIONS")
c.ReplayBuildService.source_tokens_file = setting("SOURCE_TOKENS_FILE")
c.ReplayBuildService.gitlab_hosts = listed("GITLAB_HOSTS")
c.ReplayBuildService.exempt_origins = listed("EXEMPT_ORIGINS")
c.ReplayBuildService.builder = builder
c.ReplayBuildService.python_downloads = setting("PYTHON_DOWNLOADS", "0") == "1"
c.ReplayBuildService.uv_cache_dir = setting("UV_CACHE")
c.ReplayBuildService.build_environment = {
    name: os.environ[name] for name in [*listed("BUILD_ENVIRONMENT"), "SSL_CERT_FILE"] if name in os.environ
}
c.ReplayBuildService.stop_builds_on_exit = setting("KEEP_SERVERS", "1") == "0"
c.ReplayBuildService.docker_host = docker_host
AS_THEY_ARE = """
    docker_config registry base_image repo2docker_config build_network build_cgroup_parent build_memory_limit
    build_namespace builder_image builder_image_pull_policy build_engine_socket build_engine_data
    build_engine_pods build_dns_policy build_push_secret build_ca_config_map build_priority_class
"""
for name in AS_THEY_ARE.split():
    if value := setting(name.upper()):
        setattr(c.ReplayBuildService, name, value)
for name in ("build_node_selector", "build_tolerations", "build_resources", "build_pull_secrets", "build_pod_wait"):
    if value := setting(name.upper()):
        setattr(c.ReplayBuildService, name, json.loads(value))
if processes := setting("BUILD_PROCESS_LIMIT"):
    c.ReplayBuildService.build_process_limit = int(processes)

# ---- Whatever a site adds ------------------------------------------------------------------------------------------------

for file in sorted(Path(setting("EXTRA_CONFIG")).glob("*.py")) if setting("EXTRA_CONFIG") else ():
    # With the c of this file, so that it can change what is set above: load_subconfig would give it an empty one.
    exec(compile(file.read_text(), file, "exec"))  # noqa: S102 - it is the administrator's program, as this file is
