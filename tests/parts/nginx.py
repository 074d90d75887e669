"""A private nginx that answers every request with its id once it has the whole body: a judge of request framing."""

import socket
from pathlib import Path

from parts.ports import free_port
from parts.processes import Program, program

_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;

events {{
    worker_connections 256;
}}

http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server_tokens off;
    keepalive_requests 10000;
    # The limits of calltag.
    client_header_buffer_size 64k;
    large_client_header_buffers 4 64k;
    client_max_body_size 0;

    # Answers with the id and the size of the body that it was sent.
    server {{
        listen unix:{folder}/upstream.sock;
        location / {{
            add_header X-Request-Id $http_x_request_id always;
            return 404 $http_content_length;
        }}
    }}

    # Reads the whole body before it passes a request on.
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://unix:{folder}/upstream.sock;
            proxy_http_version 1.1;
            proxy_request_buffering on;
        }}
    }}
}}
"""


class Nginx:
    """nginx on a free port, with its files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "nginx.conf"
        file.write_text(_CONFIGURATION.format(folder=folder, port=self.port))
        command = [program("nginx", "/usr/sbin/nginx"), "-e", "stderr", "-p", str(folder), "-c", str(file)]
        self.process = Program(command, folder)

    def start(self) -> None:
        self.process.start(self._is_ready)

    def _is_ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True
