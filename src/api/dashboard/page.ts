/**
 * The files of the page: `/` and `/dashboard/…`. Invariant: they are public and contain no data; nothing else is served, because
 * the list of files is read at start, so path traversal is impossible.
 */
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { extname } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { TypedApp } from '../http/typed-app.ts'

const FOLDER = new URL('./public/', import.meta.url)
const MEDIA: Readonly<Record<string, string>> = {
  '.html': 'text/html',
  '.css': 'text/css',
  '.js': 'text/javascript',
  '.svg': 'image/svg+xml',
}

/** Name under /dashboard/ → file of a package. */
const PACKAGES = {
  'preact.js': import.meta.resolve('preact'),
  'hooks.js': import.meta.resolve('preact/hooks'),
  'htm.js': import.meta.resolve('htm'),
  'uplot.js': import.meta.resolve('uplot/dist/uPlot.esm.js'),
  'uplot.css': import.meta.resolve('uplot/dist/uPlot.min.css'),
}

/** Content security policy of the page: it loads everything from this origin, and has nothing inline. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

/**
 * Serves the files as they are, without a build. The only change: a browser has no node_modules, so an import of a package
 * becomes an import of the file beside it; and the source maps that packages name are not served.
 */
const forBrowser = (text: string) =>
  text.replace(/from"preact"/g, 'from"./preact.js"').replace(/\n\/\/# sourceMappingURL=\S+\s*$/, '\n')

/** @param keys the API requires a key: then the page asks for it first, and sends no request that would be refused */
export async function servePage(app: TypedApp, { keys }: { keys: boolean }): Promise<void> {
  const own = (await readdir(FOLDER, { recursive: true })).filter((name) => extname(name) in MEDIA)
  for (const name of own) {
    const content = await readFile(new URL(name, FOLDER), 'utf8')
    if (name === 'index.html') serve(app, '/', 'text/html', content.replace('data-keys=""', `data-keys="${keys}"`))
    else serve(app, `/dashboard/${name}`, MEDIA[extname(name)] ?? '', content)
  }
  for (const [name, file] of Object.entries(PACKAGES)) {
    const content = await readFile(fileURLToPath(file), 'utf8')
    serve(app, `/dashboard/${name}`, MEDIA[extname(name)] ?? '', forBrowser(content))
  }
}

function serve(app: TypedApp, path: string, media: string, content: string): void {
  const etag = `"${createHash('sha256').update(content).digest('base64url').slice(0, 22)}"`
  app.get(path, { schema: { hide: true } }, async (request, reply) => {
    reply.headers({ etag, 'cache-control': 'no-cache', 'content-security-policy': POLICY })
    if (request.headers['if-none-match'] === etag) return reply.code(304).send()
    return reply.type(`${media}; charset=utf-8`).send(content)
  })
}
