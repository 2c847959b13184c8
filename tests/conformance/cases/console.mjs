// What a script prints.
export default [
  { name: 'text', code: "console.log('hello')", logs: ['hello'] },
  { name: 'many arguments', code: "console.log('a', 1, true, null, 'b c')", logs: ['a 1 true null b c'] },
  { name: 'objects', code: "console.log({ a: [1, { b: 2 }] }, ['x'])", logs: ['{"a":[1,{"b":2}]} ["x"]'] },
  { name: 'cycles', code: 'const a = {}; a.a = a; console.log(a)', logs: ['[unserializable]'] },
  { name: 'a big integer', code: 'console.log({ a: 1n })', logs: ['[unserializable]'] },
  { name: 'an error', code: "\nconsole.log('it:', new TypeError('boom'))", checkLogs: ([line]) => line.startsWith('it: TypeError: boom') && /:2:\d+/.test(line) && !/sandbar|blob/.test(line), needs: 'errors in logs' },
  { name: 'a big integer alone', code: 'console.log(12n)', logs: ['12n'], needs: 'errors in logs' },
  { name: 'every level', code: "for (const l of ['debug', 'log', 'info', 'warn', 'error']) console[l](l)", logs: ['debug', 'log', 'info', 'warn', 'error'] },
  { name: 'an empty line', code: "console.log(''); console.log('x')", logs: ['', 'x'] },
  { name: 'lines within', code: "console.log('a\\nb')", logs: ['a\nb'] },
  { name: 'the order over awaits', code: "console.log(1); const p = (async () => { console.log(2); await 0; console.log(4) })(); console.log(3); await p; console.log(5)", logs: ['1', '2', '3', '4', '5'] },
  { name: 'before an error', code: "console.log('seen'); throw new Error('x')", fails: 'user_error', logs: ['seen'] },
  { name: 'before a result', code: "console.log('a'); return 1", value: 1, logs: ['a'] },
  { name: 'no logs', code: 'return 1', value: 1, logs: [] },
  { name: 'as a value', code: "[1, 2].forEach((n) => console.log(n)); const { warn } = console; warn('w')", logs: ['1', '2', 'w'] },
];
