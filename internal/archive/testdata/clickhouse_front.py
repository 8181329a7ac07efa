"""Speaks ClickHouse's HTTP interface over its engine as a library (chDB): one statement at a time, as far as the loader needs it.

Arguments: folder of the data, user, password, number of the INSERT whose reply is lost (0: none). Prints its port.
"""
import http.server
import os
import re
import sys
import tempfile
import urllib.parse

from chdb import session

folder, user, password, lose = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
engine = session.Session(os.path.join(folder, "engine"))
inserts = 0


class Front(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body, exception=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if exception:
            self.send_header("X-ClickHouse-Exception-Code", exception)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        global inserts
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)["query"][0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("X-ClickHouse-User") != user or self.headers.get("X-ClickHouse-Key") != password:
            return self.answer(403, b"", "516")
        insert = re.match(r"INSERT INTO (\S+) FORMAT Parquet$", query)
        try:
            if not insert:
                return self.answer(200, engine.query(query, "TabSeparated").bytes())
            inserts += 1
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".parquet") as file:
                file.write(body)
                file.flush()
                # By name, as the server does with the columns of a file.
                source = f"file('{file.name}', 'Parquet')"
                names = [line.split("\t")[0] for line in engine.query(f"DESCRIBE TABLE {source}", "TabSeparated").bytes().decode().splitlines()]
                columns = ", ".join(names)
                engine.query(f"INSERT INTO {insert.group(1)} ({columns}) SELECT {columns} FROM {source}")
            if inserts == lose:
                self.close_connection = True
                return self.connection.close()
            return self.answer(200, b"")
        except RuntimeError as problem:
            print(problem, file=sys.stderr, flush=True)
            return self.answer(500, str(problem).encode(), "1")


server = http.server.HTTPServer(("127.0.0.1", 0), Front)
print(server.server_address[1], flush=True)
server.serve_forever()
