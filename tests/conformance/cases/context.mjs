// ctx.data and ctx.user.
export default [
  { name: 'an object', code: 'return ctx.data.a', data: { a: 1 }, value: 1 },
  { name: 'no body', code: 'return ctx.data', body: '', value: {} },
  { name: 'a body that is no JSON', code: 'return ctx.data', body: '{nope', value: {} },
  { name: 'a list', code: 'return ctx.data.length', data: [1, 2], value: 2 },
  { name: 'text', code: 'return ctx.data', data: 'x', value: 'x' },
  { name: 'null', code: 'return ctx.data', data: null, value: null },
  { name: 'who calls', code: 'return Object.keys(ctx.user).sort()', value: ['email', 'id', 'roles'] },
  { name: 'their roles', code: "return [Array.isArray(ctx.user.roles), ctx.user.roles.includes('admin')]", value: [true, true] },
  { name: 'what there is', code: "return ['data', 'user', 'fetch', 'db', 'email'].filter((k) => !(k in ctx))", value: [] },
  { name: 'the ops are functions', code: 'return [ctx.fetch, ctx.db.list, ctx.db.one, ctx.email.send].map((f) => typeof f)', value: ['function', 'function', 'function', 'function'] },
  { name: 'data can be changed', code: 'ctx.data.a.push(2); ctx.data.b = 1; return ctx.data', data: { a: [1] }, value: { a: [1, 2], b: 1 } },
  { name: 'a prototype is not reached', code: 'ctx.data.__proto__.polluted = 1; return ({}).polluted', data: {}, value: 1 },
  { name: 'nor does the next see it', code: 'return ({}).polluted === undefined', value: true },
];
