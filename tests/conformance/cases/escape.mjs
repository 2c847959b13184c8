// What trusted code reaches from within a worker of Bun when it goes around what was taken away: its sandbox, and nothing of the
// machine's. `ctx.data.canary` is a file of the machine, `ctx.data.server` the server.
import { readFileSync } from 'node:fs';

const only = ['bun-worker'];
// A worker that a script starts itself has all of Bun again.
const node = `globalThis.process = (await import('node:process')).default;
globalThis.setImmediate = (f, ...a) => setTimeout(f, 0, ...a);
const { Worker } = await import('node:worker_threads');
const inBun = (code) => new Promise((done, fail) => {
  const w = new Worker("const { parentPort } = require('node:worker_threads'); (async () => {" + code + "})().then((v) => parentPort.postMessage(v), (e) => parentPort.postMessage('failed: ' + e.message))", { eval: true });
  w.on('message', done);
  w.on('error', fail);
});
const sh = (c) => inBun('return String(Bun.spawnSync(["/bin/sh", "-c", ' + JSON.stringify(c + ' 2>&1') + ']).stdout)');
`;
const canary = () => readFileSync(process.env.CANARY_FILE, 'utf8').trim();
export default [
  { name: 'the import works at all', only, code: `${node} return (await import('node:fs')).readdirSync('/opt/program').sort()`, value: ['bun', 'ctx.js', 'pool.js', 'worker.js'] },
  { name: 'Bun is there again', only, code: `${node} return await inBun("return String(Bun.spawnSync(['id', '-u']).stdout)")`, value: '0\n' },
  { name: 'a file of the machine', only, code: `${node} try { return (await import('node:fs')).readFileSync(ctx.data.canary, 'utf8') } catch (e) { return e.code }`, value: 'ENOENT' },
  { name: 'a file of the machine, by a shell', only, code: `${node} return await sh('cat ' + ctx.data.canary + '; find / -xdev -name canary -newermt 2000-01-01')`, check: (v) => v.includes('No such file') && !v.includes(canary()) },
  { name: 'a file of the machine, by Bun itself', only, code: `${node} return await inBun('return await Bun.file(' + JSON.stringify(ctx.data.canary) + ').text()')`, check: (v) => !String(v).includes(canary()) },
  { name: 'by way of pid 1', only, code: `${node} return await sh('cat /proc/1/root' + ctx.data.canary + '; cat /proc/1/cwd/etc/hostname')`, check: (v) => !v.includes(canary()) },
  { name: 'users of the machine', only, code: `${node} return (await import('node:fs')).readFileSync('/etc/shadow', 'utf8')`, check: (v) => v !== readFileSync('/etc/shadow', 'utf8') && v.includes('root:*:') },
  { name: 'processes of the machine', only, code: `${node} return await sh('cat /proc/[0-9]*/cmdline | tr "\\\\0" " "')`, check: (v) => v.includes('pool.js') && !v.includes('serve') && !v.includes('run.mjs') },
  { name: 'the environment of the server', only, code: `${node} return Object.keys(process.env).join() + await sh('cat /proc/1/environ')`, check: (v) => !/SANDBAR_|BOOTSTRAP|CANARY/.test(v) },
  { name: 'root is nobody outside', only, code: `${node} return (await sh('cat /proc/self/uid_map')).trim().split(/\\s+/)`, check: ([inside, outside]) => inside === '0' && Number(outside) > 0 },
  { name: 'the server by the network', only, code: `${node} return await inBun('try { return (await fetch(' + JSON.stringify(ctx.data.server + '/readyz') + ')).status } catch (e) { return 0 }')`, value: 0 },
  { name: 'others by the network', only, code: `${node} return await inBun('try { return (await fetch(' + JSON.stringify(ctx.data.web + '/hello') + ')).status } catch (e) { return 0 }')`, value: 0 },
  { name: 'the program is not its own to change', only, code: `${node} const fs = await import('node:fs'); const out = []; for (const f of ['/opt/program/bun', '/usr/bin/env']) try { fs.writeFileSync(f, 'x'); out.push(f) } catch {} return out`, value: [] },
  { name: 'new namespaces and mounts', only, code: `${node} return await sh('unshare -Ur true && echo made one; mount -t tmpfs none /mnt && echo mounted; mknod /tmp/sda b 8 0 && echo made a disk')`, check: (v) => !/made|mounted/.test(v.replace(/.*(not permitted|denied).*/gi, '')) },
  { name: 'ending what one stands on', only, code: `${node} process.kill(1, 9); return 'alive'`, value: 'alive' },
  { name: 'the pool itself', only, serial: true, code: `${node} process.kill(process.pid, 9); await new Promise(() => {})`, fails: 'internal' },
  { name: 'after that there is a new one', only, serial: true, code: 'return 1', value: 1 },
  { name: 'who is not trusted', only, spec: { authorKind: 'tenant' }, provider: 'quickjs', code: "try { await import('node:fs'); return 'bun' } catch { return typeof Bun }", value: 'undefined' },
];
