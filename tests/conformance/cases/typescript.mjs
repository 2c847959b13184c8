// The same with types, which are taken away when a script is saved.
export default [
  { name: 'annotations', language: 'typescript', code: 'const a: number = 1; function f<T>(x: T): T { return x } return f<number>(a)', value: 1 },
  { name: 'interfaces and aliases', language: 'typescript', code: "interface P { id: string; n?: number }\ntype Q = P & { m: 'a' | 'b' };\nconst q: Q = { id: 'x', m: 'a' };\nreturn q", value: { id: 'x', m: 'a' } },
  { name: 'as, satisfies, and no null', language: 'typescript', code: 'const a = ({ x: 1 } as { x?: number }) satisfies object; return a.x! + (a as any).x', value: 2 },
  { name: 'classes', language: 'typescript', code: 'abstract class A { protected readonly n: number = 2; abstract f(): number } class B extends A { override f(): number { return this.n } } return new B().f()', value: 2 },
  { name: 'the data', language: 'typescript', code: 'const { n } = ctx.data as { n: number }; return n * 2', data: { n: 4 }, value: 8 },
  { name: 'lines stay', language: 'typescript', code: "interface A {\n  b: string;\n}\n\nconst f = (a: A): never => {\n  throw new Error('sixth');\n};\nf({ b: '' })", fails: 'user_error', error: 'sixth', line: 6 },
  { name: 'a syntax error', language: 'typescript', code: 'const a: = 1;', refused: { line: 1 } },
  { name: 'types in JavaScript', code: 'const a: number = 1; return a', refused: { line: 1 } },
];
