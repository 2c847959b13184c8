// The public npm client, unmodified, against a running server: claim, run, cmd, files, list, delete.
import assert from 'node:assert/strict';
import { Client } from 'sandbox0';

const client = new Client({ token: process.env.SANDBOX0_TOKEN, baseUrl: process.env.SANDBOX0_BASE_URL });
const sandbox = await client.sandboxes.claim('default');
const step = (name) => console.log(`PASS npm ${name}`);
try {
  assert.ok(sandbox.id);
  step('claim');

  await sandbox.run('python', 'x = 40');
  assert.match((await sandbox.run('python', 'print(x + 2)')).outputRaw, /42/);
  step('run');

  const done = await sandbox.cmd("sh -c 'echo out; echo err >&2; exit 3'");
  assert.equal(done.stdout, 'out\n');
  assert.equal(done.stderr, 'err\n');
  assert.equal(done.exitCode, 3);
  step('cmd');

  const stream = await sandbox.cmdStream("sh -c 'echo streamed; exit 4'");
  let text = '';
  for await (const output of stream.outputs()) text += output.data;
  assert.equal(text, 'streamed\n');
  assert.equal((await stream.wait()).exitCode, 4);
  step('cmdStream');

  const bytes = Uint8Array.from({ length: 70_000 }, (_, i) => i & 255);
  await sandbox.mkdir('/workspace/npm', true);
  await sandbox.writeFile('/workspace/npm/data.json', bytes);
  assert.deepEqual(new Uint8Array(await sandbox.readFile('/workspace/npm/data.json')), bytes);
  assert.equal((await sandbox.statFile('/workspace/npm/data.json')).size, bytes.length);
  assert.deepEqual((await sandbox.listFiles('/workspace/npm')).map((entry) => entry.name), ['data.json']);
  await sandbox.moveFile('/workspace/npm/data.json', '/workspace/npm/moved.json');
  await sandbox.deleteFile('/workspace/npm/moved.json');
  await assert.rejects(sandbox.readFile('/workspace/npm/moved.json'));
  step('files');

  assert.equal((await client.sandboxes.get(sandbox.id)).status, 'running');
  assert.ok((await client.sandboxes.list({ limit: 200 })).sandboxes.some((row) => row.id === sandbox.id));
  step('list');
} finally {
  await client.sandboxes.delete(sandbox.id);
}
await assert.rejects(client.sandboxes.get(sandbox.id), (error) => error.statusCode === 404 || error.status === 404);
step('delete');
