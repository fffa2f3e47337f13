/**
 * Node runs this before a process of a test (NODE_OPTIONS=--import=…) to remove guards from the code, in that process
 * alone. TEST_CODE_PATCH is JSON, [{ file, guard, instead }]: the code between the comments `guard:NAME` and `end:NAME`
 * of that file is replaced by `instead`. It throws unless the file has each of the two comments exactly once, in this
 * order.
 */
import { register } from 'node:module'

const source = `
  const changes = ${JSON.stringify(JSON.parse(process.env.TEST_CODE_PATCH ?? '[]'))}
  export async function load(url, context, next) {
    const loaded = await next(url, context)
    const path = new URL(url).pathname
    for (const { file, guard, instead } of changes.filter((one) => path.endsWith(one.file))) {
      const [before, marked, ...more] = String(loaded.source).split('/* guard:' + guard + ' */')
      const [code, after, ...rest] = marked?.split('/* end:' + guard + ' */') ?? []
      if (after === undefined || more.length + rest.length > 0) {
        throw new Error(file + ' does not have the guard ' + guard + ' exactly once')
      }
      loaded.source = before + instead + after
      process.stderr.write('without: ' + guard + ' (' + code.trim() + ')\\n')
    }
    return loaded
  }`
register(`data:text/javascript,${encodeURIComponent(source)}`)
