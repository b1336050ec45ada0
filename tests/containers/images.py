"""Images as strangers make them, each on the notebook image or on the bare base: ``NOTEBOOK`` and ``BASE`` stand for these."""

# Answers as the text says that follows, on the port that a session's server is to have.
_ANSWERING = """
import os, socketserver, time, urllib.parse
class Answer(socketserver.BaseRequestHandler):
    def handle(self):
        {behaviour}
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("0.0.0.0", {port}), Answer).serve_forever()
"""


def answering(behaviour: str, port: int = 8888) -> str:
    """A Dockerfile whose entrypoint answers on a port by itself; ``self.request`` is the connection."""
    program = _ANSWERING.format(behaviour=behaviour, port=port).strip().replace("\n", "\\n").replace('"', '\\"')
    return f'FROM BASE\nUSER 1000\nENTRYPOINT ["python3", "-c", "{program}"]\n'


WORKING = {
    "plain": "FROM NOTEBOOK\n",
    # As an image may be that was made for OpenShift: a number that no account has, and so no home.
    "no-account": "FROM NOTEBOOK\nUSER 1234\nWORKDIR /\n",
    "no-workdir": "FROM NOTEBOOK\nWORKDIR /not/there/yet\n",
    "home-of-its-own": "FROM NOTEBOOK\nUSER root\nRUN mkdir /srv/mine && chown 1000 /srv/mine\n"
    "ENV HOME=/srv/mine\nWORKDIR /srv/mine\nUSER 1000:0\n",
    "entrypoint": "FROM NOTEBOOK\n"
    """ENTRYPOINT ["sh", "-c", "export FROM_THE_ENTRYPOINT=yes; exec \\"$@\\"", "entrypoint"]\n""",
    "volume": "FROM NOTEBOOK\nVOLUME /data\nEXPOSE 5000\nHEALTHCHECK --interval=1s CMD false\nLABEL replay.egi.eu/launch=false\n",
    # Ends by itself only when it is killed.
    "stubborn": "FROM NOTEBOOK\n"
    """ENTRYPOINT ["sh", "-c", "trap '' TERM; \\"$@\\" & while true; do wait; done", "entrypoint"]\n""",
}

CLOSED_HOME = (
    "FROM NOTEBOOK\nUSER root\nRUN mkdir /srv/closed && touch /srv/closed/analysis.ipynb\n"
    "ENV HOME=/srv/closed\nWORKDIR /srv/closed\nUSER 4321\n"
)
"""A home of root's, for a number that no account has."""

NO_SERVER = "The image has no jupyterhub-singleuser that could be run: add jupyterhub and jupyterlab (or notebook)"
LAST_USER = "This image runs as root, which is not allowed here. The last USER in its Dockerfile must be another one"
NO_ANSWER = "The session's server did not answer on port 8888 within"
NO_HUB_SERVER = "What answers on port 8888 in this image is no JupyterHub server."

REFUSED: dict[str, tuple[str, list[str]]] = {
    "no-server": ("FROM BASE\nUSER 1000\n", [NO_SERVER]),
    "not-executable": (
        "FROM BASE\nRUN touch /usr/bin/jupyterhub-singleuser\nUSER 1000\n",
        [NO_SERVER],
    ),
    "no-server-below-repo2docker": (
        "FROM BASE\nUSER 1000\n"
        'ENTRYPOINT ["python3", "-c", "import subprocess, sys; subprocess.Popen(sys.argv[1:])"]\n',
        [NO_SERVER],
    ),
    "other-processor": (
        "FROM BASE AS made\nRUN printf '\\177ELF\\002\\001\\001' > /made && head -c 4000 /dev/zero >> /made && chmod +x /made\n"
        "FROM scratch\nCOPY --from=made /made /bin/jupyterhub-singleuser\nCOPY --from=made /made /bin/sh\nENV PATH=/bin\nUSER 1000\n",
        ["made for another kind of processor"],
    ),
    "root-by-default": ("FROM NOTEBOOK\nUSER root\n", [LAST_USER, "USER 1000"]),
    "root-by-number": ("FROM NOTEBOOK\nUSER 0:1000\n", [LAST_USER]),
    "root-by-sign": ("FROM NOTEBOOK\nUSER +0\n", [LAST_USER]),
    "root-by-another-name": (
        "FROM NOTEBOOK\nUSER root\nRUN echo 'toor:x:0:0::/root:/bin/sh' >> /etc/passwd\nUSER toor\n",
        [LAST_USER, "USER 1000"],
    ),
    # The engine takes a number that is none for 0.
    "root-by-no-number": (
        "FROM NOTEBOOK\nUSER root\nRUN echo 'toor:x:many:0::/root:/bin/sh' >> /etc/passwd\nUSER toor\n",
        [LAST_USER, "USER 1000"],
    ),
    "root-by-overflow": (
        "FROM NOTEBOOK\nUSER root\nRUN echo 'toor:x:4294967296:0::/root:/bin/sh' >> /etc/passwd\nUSER toor\n",
        [LAST_USER],
    ),
    "root-by-a-number-for-a-name": (
        "FROM NOTEBOOK\nUSER root\nRUN echo '99999999999999999999:x:0:0::/:/bin/sh' >> /etc/passwd\nUSER 99999999999999999999\n",
        [LAST_USER],
    ),
    "hidden-accounts": (
        "FROM NOTEBOOK\nUSER root\nRUN echo 'toor:x:0:0::/root:/bin/sh' > /srv/b && ln -s srv/b /a && ln -sf ../a /etc/passwd\nUSER toor\n",
        [LAST_USER, "USER 1000"],
    ),
    # What opens it would wait for ever, the engine among them.
    "accounts-that-hang": (
        "FROM NOTEBOOK\nUSER root\nRUN rm /etc/group && mkfifo /etc/group\nUSER 1000\n",
        ["The accounts in this image cannot be read"],
    ),
    "unknown-user": ("FROM NOTEBOOK\nUSER nosuchuser\n", ["The container engine refused the session: ", "nosuchuser"]),
    "no-entrypoint-there": (
        'FROM NOTEBOOK\nENTRYPOINT ["/not-there.sh"]\n',
        ["The image's ENTRYPOINT, /not-there.sh, could not be run"],
    ),
    "ends-at-once": (
        'FROM NOTEBOOK\nENTRYPOINT ["true"]\n',
        ["ended at once", "ENTRYPOINT, true, must run the command that it is given"],
    ),
    "fails": (
        "FROM NOTEBOOK\n"
        """ENTRYPOINT ["sh", "-c", "printf '\\\\033[31mValueError: \\\\033]0;title\\\\007it is\\\\342\\\\200\\\\256 broken\\\\n'; exit 3"]\n""",
        ["ended at once, with status 3: ValueError: it is  broken"],
    ),
    "too-much-memory": (
        'FROM BASE\nUSER 1000\nENTRYPOINT ["python3", "-c", "x = bytearray(4 << 30)"]\n',
        ["ran out of memory", "at most 512 MB"],
    ),
    "swallows-the-command": (
        'FROM NOTEBOOK\nENTRYPOINT ["sleep", "infinity"]\nCMD []\n',
        ["ended at once, with status 1: sleep: invalid time interval"],
    ),
    "never-runs-the-command": (
        'FROM NOTEBOOK\nENTRYPOINT ["sh", "-c", "echo waiting; exec sleep 1000"]\n',
        [NO_ANSWER, "ENTRYPOINT, sh -c echo waiting; exec sleep 1000, must run the command", "waiting"],
    ),
    "another-port": (
        "FROM NOTEBOOK\n"
        """ENTRYPOINT ["sh", "-c", "export JUPYTERHUB_SERVICE_URL=http://0.0.0.0:9999/; exec \\"$@\\"", "e"]\n""",
        [NO_ANSWER, "ENTRYPOINT"],
    ),
    "another-server": (
        'FROM BASE\nUSER 1000\nENTRYPOINT ["sh", "-c", "exec python3 -m http.server 8888"]\n',
        [NO_HUB_SERVER, "ENTRYPOINT, sh -c exec python3 -m http.server 8888, must run the command"],
    ),
    "lab-without-hub": (
        'FROM NOTEBOOK\nENTRYPOINT ["sh", "-c", "exec jupyter server --ip=0.0.0.0 --port=8888"]\n',
        [NO_HUB_SERVER],
    ),
    # What wants to harm the hub.
    "redirect": (
        answering("self.request.sendall(b'HTTP/1.1 302 F\\\\r\\\\nLocation: http://127.0.0.1:1/\\\\r\\\\n\\\\r\\\\n')"),
        [NO_HUB_SERVER],
    ),
    "garbage": (answering("[self.request.sendall(os.urandom(65536)) for _ in range(100)]"), [NO_ANSWER]),
    "endless-head": (
        answering("[self.request.sendall(b'HTTP/1.1 200 OK\\\\r\\\\nX: ' + b'y' * 65536) for _ in range(9999)]"),
        [NO_ANSWER],
    ),
    "slow-head": (
        answering("[(self.request.sendall(b'H'), time.sleep(0.5)) for _ in range(9999)]"),
        [NO_ANSWER],
    ),
    "always-busy": (
        answering("self.request.sendall(b'HTTP/1.1 503 Busy\\\\r\\\\nContent-Length: 0\\\\r\\\\n\\\\r\\\\n')"),
        [NO_ANSWER],
    ),
    "endless-log": (
        'FROM BASE\nUSER 1000\nENTRYPOINT ["sh", "-c", "timeout 2 yes | tr -d \\"\\\\n\\" ; exit 5"]\n',
        ["ended at once, with status 5"],
    ),
}
"""Dockerfiles, and what the person is told of each."""


def dockerfile(text: str, base: str, notebook: str) -> str:
    """With the names of the images that it is built on."""
    return text.replace("FROM BASE", f"FROM {base}").replace("FROM NOTEBOOK", f"FROM {notebook}")
