/** Type of /dashboard/htm.js, the module of the htm package: its own declaration is that of its CommonJS file. */
declare const htm: {
  // biome-ignore lint/suspicious/noExplicitAny: a template is a node, a list of nodes, or nothing
  bind(h: unknown): (strings: TemplateStringsArray, ...values: unknown[]) => any
}
export default htm
