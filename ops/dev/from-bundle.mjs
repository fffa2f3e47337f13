/**
 * Node loads this before a test file (.taprc) or a file that a test forks, and then loads that file from its bundle
 * (bundle.mjs). Without a bundle of the file, Node loads the source with the TypeScript loader.
 */
import { existsSync } from 'node:fs'
import { register } from 'node:module'
import { join, relative } from 'node:path'
import { pathToFileURL } from 'node:url'
import { ROOT } from './install.mjs'

/**
 * Keeps tap's recorder of loaded files out of the processes that this one starts. tap adds it by a listener on each spawn
 * and by NODE_OPTIONS. It serves coverage alone, which is off, and takes a third of the processor time of a start.
 */
globalThis[Symbol.for('process-on-spawn@*:singletonId')]?.listeners.splice(0)
process.env.NODE_OPTIONS = process.env.NODE_OPTIONS?.replace(/\S*@tapjs\/processinfo\S*/, '').trim() ?? ''

const [, file = ''] = process.argv
const bundled = join(process.env.HOLDFAST_BUNDLE ?? '', relative(ROOT, file).replace(/\.ts$/, '.mjs'))

if (process.env.HOLDFAST_BUNDLE && existsSync(bundled)) {
  const [source, target] = [file, bundled].map((path) => JSON.stringify(pathToFileURL(path).href))
  const hook = `export const resolve = (specifier, context, next) =>
    next(specifier === ${source} ? ${target} : specifier, context)`
  register(`data:text/javascript,${encodeURIComponent(hook)}`)
} else {
  await import('tsx')
}
