"""Every setting of the build service, with its default and what it means. Traits only: what is done with them is elsewhere."""

from jupyterhub.traitlets import ByteSpecification
from traitlets import Bool, Dict, Enum, Float, Integer, List, Unicode
from traitlets.config.application import Application

from replay_build_service.outgoing import DEFAULT_ALLOWED_HOSTS, DEFAULT_ARCHIVE_HOSTS
from replay_build_service.sources.dataverse_installations import shipped_installations

GIB = 1024**3


class ServiceSettings(Application):
    """The settings, as ``ReplayBuildService.NAME`` in a configuration file."""

    raise_config_file_errors = Bool(True)
    log_level = Enum(
        (0, 10, 20, 30, 40, 50, "DEBUG", "INFO", "WARN", "ERROR", "CRITICAL"),
        "INFO",
        help="From which level on to log.",
    ).tag(config=True)

    config_file = Unicode("", help="A Python configuration file; the hub's own jupyterhub_config.py will do.").tag(
        config=True
    )
    generate_config = Bool(False, help="Print a configuration file and end.").tag(config=True)
    state_dir = Unicode("replay-state", help="Folder for the database, secrets and what builders keep.").tag(
        config=True
    )
    db_url = Unicode(
        "", help="SQLAlchemy URL of the database. Where it is empty: replay.sqlite in the state folder."
    ).tag(config=True)
    token_file = Unicode(
        "",
        help="File with the token that spawner and service share. Where it is empty: service_token in the state folder.",
    ).tag(config=True)
    api_token_file = Unicode(
        "", help="File with the service's token for the hub's API, in place of the variable JUPYTERHUB_API_TOKEN."
    ).tag(config=True)
    public_url = Unicode(
        "",
        help="scheme://host[:port] by which people reach the hub, for links and badges. Default: as their request says.",
    ).tag(config=True)

    metrics_address = Unicode(
        "",
        help="host:port at which Prometheus finds this service's metrics, over HTTP and without a login: for a network that "
        "only it reaches. Where it is empty, they are not served.",
    ).tag(config=True)

    vos = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        help="The virtual organisations that may launch, each with the address where one enrols in it (may be empty).",
    ).tag(config=True)
    policy_file = Unicode(
        "",
        help="A file of policies in YAML, one for each VO: what its members may run, with how much. It stands in place of vos "
        "and of the four settings below. docs/policies.md says what it may hold.",
    ).tag(config=True)
    features = List(
        Unicode(),
        help="Names of what sessions can get beside their image, of those that installed packages have (entry points "
        "replay.features). Policies say for whom; nobody gets what they have not agreed to.",
    ).tag(config=True)
    mem_guarantee = ByteSpecification(2 * GIB, help="Memory that a session is guaranteed.").tag(config=True)
    mem_limit = ByteSpecification(4 * GIB, help="Memory that a session may use at most.").tag(config=True)
    cpu_guarantee = Float(None, allow_none=True, help="CPU cores that a session is guaranteed.").tag(config=True)
    cpu_limit = Float(None, allow_none=True, help="CPU cores that a session may use at most.").tag(config=True)

    builder = Enum(
        ("venv", "docker", "kubernetes"),
        "venv",
        help="How images are made: “venv” makes environments of Python packages on this machine and isolates nothing; "
        "“docker” has a container engine build with repo2docker; “kubernetes” has pods do so, and a registry keep them.",
    ).tag(config=True)

    allowed_hosts = List(
        Unicode(),
        sorted(DEFAULT_ALLOWED_HOSTS),
        help="Hosts that repositories may come from, over HTTPS; “*.example.org” stands for all below example.org.",
    ).tag(config=True)
    exempt_origins = List(
        Unicode(),
        help="Exact scheme://host:port origins that may be asked although they are not HTTPS or have a private address.",
    ).tag(config=True)

    archive_hosts = List(
        Unicode(),
        sorted(DEFAULT_ARCHIVE_HOSTS | {installation.host for installation in shipped_installations()}),
        help="Hosts that may be asked beside these for records of archives (Zenodo, figshare, Dataverse, HydroShare, OSF, Software Heritage, "
        "CKAN), and the storage that they redirect downloads to. Without any, such links are refused.",
    ).tag(config=True)
    dataverse_installations = Unicode(
        "",
        help="A JSON file with installations of Dataverse beside those that Replay knows, or with newer words on these: as the "
        "community's list is, or as docs/archives.md says. Their hosts may be asked as if they were among `archive_hosts`.",
    ).tag(config=True)
    source_tokens_file = Unicode(
        "",
        help="A file with tokens for archives' APIs, a line “HOST TOKEN” for each, so that they take more questions. Sent to that "
        "host alone, as a bearer token, when links are looked up; never to builds, which ask without.",
    ).tag(config=True)
    gitlab_hosts = List(
        Unicode(),
        help="Hosts, beside gitlab.com, that are GitLabs: what links of the provider “gl” with a whole URL may name. They have to be among "
        "`allowed_hosts` as well.",
    ).tag(config=True)

    fetch_submodules = Bool(
        False,
        help="Whether a repository's submodules are fetched with it: over HTTPS, from the hosts above alone, each at the commit that "
        "the repository pins. Where not, their folders are empty.",
    ).tag(config=True)

    lfs_limit = ByteSpecification(
        0,
        help="How many bytes of files in Git LFS may be fetched with a repository, from hosts among those above: for GitHub's also "
        "github-cloud.githubusercontent.com. With 0, and in repositories that have more, pointers stay in their places.",
    ).tag(config=True)

    outgoing_proxy = Unicode("", help="HTTP proxy through which repositories are reached.").tag(config=True)
    ca_file = Unicode(
        "",
        help="File with the certificates of authorities to trust: git takes it in place of the system's file, the service's "
        "questions to a registry trust it beside the public authorities. The engine's own pushes and pulls ignore it: they go "
        "by the engine's certs.d.",
    ).tag(config=True)

    launches_per_minute = Integer(30, min=1, help="How many launches one person may ask for in a minute.").tag(
        config=True
    )
    looks_per_minute = Integer(120, min=1, help="How many links one person may open in a minute.").tag(config=True)
    hub_cache_seconds = Integer(
        30,
        min=1,
        help="So many seconds are the hub's answers about a person believed. Who has lost access to the hub has it here for so "
        "much longer at most.",
    ).tag(config=True)
    builds_at_once = Integer(2, min=1, help="How many builds run at the same time; the others wait.").tag(config=True)
    build_timeout = Float(1800, min=1, help="Seconds that a build may take.").tag(config=True)
    build_output_limit = ByteSpecification(50 * 1024**2, help="How much a build may print.").tag(config=True)
    build_memory_limit = ByteSpecification(
        None,
        allow_none=True,
        help="Memory of a build. “docker”: of all its steps together. “venv”: address space of each single program, which "
        "is more than the memory it uses; under 2 GB common programs fail. Default: no limit.",
    ).tag(config=True)
    build_process_limit = Integer(
        None, allow_none=True, help="“docker”: how many processes and threads the steps of a build may have together."
    ).tag(config=True)
    build_disk_limit = ByteSpecification(
        20 * GIB,
        allow_none=True,
        help="“docker”, “kubernetes”: by how much the engine's disk may fill while a build runs. Builds at the same time count together.",
    ).tag(config=True)
    build_free_disk = ByteSpecification(
        GIB, help="“docker”, “kubernetes”: a build is ended where less than this is left on the engine's disk."
    ).tag(config=True)
    repository_limit = ByteSpecification(2 * GIB, help="How large a checkout may be on disk.").tag(config=True)
    content_limit = ByteSpecification(
        GIB,
        help="How large a content may be on disk: the files of a second repository that a link brings into the session "
        "(`?content=`). Each session has a copy.",
    ).tag(config=True)
    content_timeout = Float(300.0, help="Seconds that fetching a content may take.").tag(config=True)
    contents_kept = ByteSpecification(
        10 * GIB,
        help="“venv”, “docker”: so much of contents is kept for the next session that wants them; what was used longest ago "
        "goes first.",
    ).tag(config=True)
    build_environment = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        help="Environment variables of builds, and nothing else is handed to them. “venv”: proxies, CA certificates, a mirror "
        "of PyPI. “docker”: build arguments, of which stock images heed the proxies alone; the rest is for repo2docker_config.",
    ).tag(config=True)
    python_downloads = Bool(False, help="Whether uv may download the Python that a repository asks for.").tag(
        config=True
    )
    default_python = Unicode(
        "",
        help="Version, such as 3.12, for a repository that names none. Where it is empty: the one that the service runs on.",
    ).tag(config=True)
    uv_cache_dir = Unicode("", help="uv's cache of downloads. Default: a folder beside the environments.").tag(
        config=True
    )
    stop_builds_on_exit = Bool(
        False, help="End running builds when the service ends, instead of finding them again at the next start."
    ).tag(config=True)

    docker_host = Unicode(
        "unix:///var/run/docker.sock",
        help="“docker”: the container engine, as in DOCKER_HOST: unix:///path or tcp://host:port.",
    ).tag(config=True)
    docker_config = Unicode(
        "",
        help="“docker”, “kubernetes”: folder with the config.json that has the registry's credentials, as “docker login” makes it. "
        "Default: DOCKER_CONFIG, or .docker in the home of the service's account.",
    ).tag(config=True)
    registry = Unicode(
        "",
        help="“docker”, “kubernetes”: https://host[:port][/prefix] of the registry that keeps images; http:// for one without TLS. "
        "Where it is empty, images stay in the container engine.",
    ).tag(config=True)
    base_image = Unicode(
        "",
        help="“docker”, “kubernetes”: what images stand on, best by digest (name@sha256:…). A tag is pinned to what the engine has, or "
        "else to what its registry says. Default: as repo2docker_config says, or repo2docker itself.",
    ).tag(config=True)
    repo2docker_config = Unicode(
        "", help="“docker”, “kubernetes”: a configuration file of repo2docker: buildpacks, and whatever else it has."
    ).tag(config=True)
    build_network = Unicode(
        "",
        help="“docker”, “kubernetes”: the network of builds' steps: “default”, the engine's own, “none” or “host”; buildx takes no other. "
        "With “host”, strangers' steps, root's too, share the loopback of the hub, the service and the proxy.",
    ).tag(config=True)
    build_cgroup_parent = Unicode(
        "",
        help="“docker”, “kubernetes”: a control group with limits of your own for builds, such as a systemd slice. Where it is empty, "
        "the limits on memory and processes are set by the service, which then needs root on the engine's machine.",
    ).tag(config=True)

    accounting_site = Unicode(
        "",
        help="This site's name in EGI's configuration database (GOCDB), for the accounting records that VO managers fetch. "
        "Without one they get CSV only.",
    ).tag(config=True)
    accounting_service = Unicode(
        "", help="The name in those records that tells this service from others of the same site; may be empty."
    ).tag(config=True)

    kubeconfig = Unicode(
        "",
        help="“kubernetes”: file that says how the cluster is reached. Default: the service account of the pod that the service "
        "runs in, or else KUBECONFIG.",
    ).tag(config=True)
    build_namespace = Unicode(
        "", help="“kubernetes”: where build pods run. Default: the namespace that the service's own pod is in."
    ).tag(config=True)
    builder_image = Unicode(
        "",
        help="“kubernetes”: the image that build pods run, best by digest: charts/replay/images/Dockerfile makes it.",
    ).tag(config=True)
    builder_image_pull_policy = Enum(
        ("IfNotPresent", "Always", "Never"), "IfNotPresent", help="“kubernetes”: when a node pulls builder_image."
    ).tag(config=True)
    build_engine_socket = Unicode(
        "/var/run/docker.sock",
        help="“kubernetes”: where a node has the socket of the container engine that builds: the chart's own, or the node's.",
    ).tag(config=True)
    build_engine_data = Unicode(
        "",
        help="“kubernetes”: where a node has that engine's images, such as /var/lib/docker. Where it is set, build_disk_limit and "
        "build_free_disk hold.",
    ).tag(config=True)
    build_engine_pods = Unicode(
        "",
        help="“kubernetes”: label selector of the engines' pods in build_namespace. A repository's builds go to the node of the "
        "same one for as long as that is ready, since it has their layers. Default: the scheduler alone decides.",
    ).tag(config=True)
    build_node_selector = Dict(
        value_trait=Unicode(), key_trait=Unicode(), help="“kubernetes”: labels of the nodes that build."
    ).tag(config=True)
    build_tolerations = List(
        Dict(), help="“kubernetes”: taints that build pods tolerate, as in a pod's specification."
    ).tag(config=True)
    build_resources = Dict(
        help="“kubernetes”: requests and limits of a build pod, as in a container's specification. repo2docker itself runs there; "
        "a build's steps run in the engine."
    ).tag(config=True)
    build_dns_policy = Unicode("ClusterFirst", help="“kubernetes”: dnsPolicy of build pods.").tag(config=True)
    build_push_secret = Unicode(
        "",
        help="“kubernetes”: Secret in build_namespace, of type kubernetes.io/dockerconfigjson, with the account that may push.",
    ).tag(config=True)
    build_pull_secrets = List(
        Unicode(), help="“kubernetes”: imagePullSecrets of build pods, for a builder_image in a private registry."
    ).tag(config=True)
    build_ca_config_map = Unicode(
        "",
        help="“kubernetes”: ConfigMap in build_namespace whose ca.crt has the certificates of authorities that build pods trust "
        "when they fetch a repository, beside the public ones.",
    ).tag(config=True)
    build_priority_class = Unicode("", help="“kubernetes”: priorityClassName of build pods.").tag(config=True)
    build_pod_wait = Float(
        300, min=1, help="“kubernetes”: seconds that a build pod may wait for a node, its image and its start."
    ).tag(config=True)
