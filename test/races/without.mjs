/**
 * Node runs this before a process of a test (NODE_OPTIONS=--import=…) to take one guard out of the code, in that process alone:
 * WITHOUT is JSON, [{ file, text, instead }]. It fails loudly when the text is not there (any more), or more than once.
 */
import { register } from 'node:module'

const source = `
  const changes = ${JSON.stringify(JSON.parse(process.env.WITHOUT ?? '[]'))}
  export async function load(url, context, next) {
    const loaded = await next(url, context)
    const path = new URL(url).pathname
    for (const { file, text, instead } of changes.filter((one) => path.endsWith(one.file))) {
      const parts = String(loaded.source).split(text)
      if (parts.length !== 2) throw new Error(file + ' has ' + (parts.length - 1) + ' times: ' + text)
      loaded.source = parts.join(instead)
      process.stderr.write('without: ' + text + '\\n')
    }
    return loaded
  }`
register(`data:text/javascript,${encodeURIComponent(source)}`)
