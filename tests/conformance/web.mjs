// What scripts of the suite fetch from.
import http from 'node:http';

export const serve = async (host, port) => {
  const server = http.createServer(async (request, response) => {
    const [, first, second] = request.url.split('?')[0].split('/');
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const send = (status, text, headers = {}) => response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', ...headers }).end(text);
    switch (first) {
      case 'hello':
        return send(200, 'hello');
      case 'unicode':
        return send(200, 'žluťoučký 😀');
      case 'status':
        return send(Number(second), Number(second) === 204 ? undefined : 'so');
      case 'echo':
        return send(200, JSON.stringify({ method: request.method, url: request.url, headers: request.headers, body: Buffer.concat(chunks).toString() }));
      case 'redirect':
        return send(302, '', { location: Number(second) > 1 ? `/redirect/${second - 1}` : '/hello' });
      case 'away':
        return send(302, '', { location: 'http://denied.example.org/' });
      case 'bytes':
        return send(200, 'x'.repeat(Number(second)));
      case 'slow':
        return void setTimeout(() => send(200, 'slow'), 5000).unref();
      case 'hangup':
        return request.socket.destroy();
      default:
        return send(404, 'missing');
    }
  });
  await new Promise((done) => server.listen(port, host, done));
  return { url: `http://${host}:${server.address().port}` };
};
