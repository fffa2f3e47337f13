/**
 * The dashboard: a page at `/`, and its data at /api/dashboard, once or as a stream. Invariant: the page is public and
 * contains no data; all data comes from /api/dashboard, which requires a key as every route of /api does.
 */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import Type from 'typebox'
import { createSignal } from '../../shared/timeout.ts'
import { problemResponses } from '../http/responses.ts'
import { createStreams, frame, HELLO } from '../http/sse.ts'
import type { TypedApp } from '../http/typed-app.ts'
import type { Collector } from './collector.ts'
import { SnapshotSchema } from './snapshot-schema.ts'

export interface DashboardOptions {
  dashboard: Collector
}

/** Maximum number of open streams per process. */
const MAX_STREAMS = 200

const page = (name: string) => new URL(`./public/${name}`, import.meta.url).href
const SCRIPT = 'text/javascript'
/** path → file and media type. The dashboard serves nothing else, so path traversal is impossible. */
const FILES = [
  ['/', page('index.html'), 'text/html'],
  ['/dashboard/dashboard.css', page('dashboard.css'), 'text/css'],
  ...['dashboard', 'stream', 'tables', 'charts', 'lab'].map(
    (name) => [`/dashboard/${name}.js`, page(`${name}.js`), SCRIPT] as const,
  ),
  ['/dashboard/icon.svg', page('icon.svg'), 'image/svg+xml'],
  ['/dashboard/uplot.js', import.meta.resolve('uplot/dist/uPlot.esm.js'), SCRIPT],
  ['/dashboard/uplot.css', import.meta.resolve('uplot/dist/uPlot.min.css'), 'text/css'],
] as const

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

const schema = {
  operationId: 'getDashboard',
  tags: ['operating'],
  summary: 'Get the dashboard: stock, queues, locks, throughput, breakers, invariants',
  description:
    'As JSON, at most a second old. With `Accept: text/event-stream` a stream: first the event `samples` with the ' +
    'throughput of the last minutes, then about once a second the event `snapshot` with this JSON. A slow client ' +
    'gets fewer snapshots.',
  response: {
    200: {
      description: 'Current snapshot',
      content: {
        'application/json': { schema: SnapshotSchema },
        'text/event-stream': { schema: Type.String() },
      },
    },
    ...problemResponses(400),
  },
}

export async function dashboardRoutes(app: TypedApp, { dashboard }: DashboardOptions): Promise<void> {
  for (const [path, address, media] of FILES) {
    const content = await readFile(fileURLToPath(address))
    const etag = `"${createHash('sha256').update(content).digest('base64url').slice(0, 22)}"`
    app.get(path, { schema: { hide: true } }, async (request, reply) => {
      reply.headers({ etag, 'cache-control': 'no-cache', 'content-security-policy': POLICY })
      if (request.headers['if-none-match'] === etag) return reply.code(304).send()
      return reply.type(`${media}; charset=utf-8`).send(content)
    })
  }

  const streams = createStreams(app, MAX_STREAMS)
  app.get('/api/dashboard', { schema }, async (request, reply) => {
    reply.header('vary', 'accept')
    if (!/\btext\/event-stream\b/.test(request.headers.accept ?? '')) return await dashboard.snapshot()
    streams.assertCapacity()
    return streams.open(reply, (gone) => snapshotFrames(dashboard, gone)) as never
  })
}

/** Yields the frames of a stream. A slow client skips snapshots: after each snapshot it gets the newest one. */
async function* snapshotFrames(dashboard: Collector, signal: AbortSignal): AsyncGenerator<string> {
  let newest: string | undefined
  let news = createSignal()
  const unsubscribe = dashboard.subscribe((json) => {
    newest = json
    news.fire()
  })
  try {
    yield HELLO + frame({ event: 'samples', data: JSON.stringify(dashboard.samples()) })
    while (!signal.aborted) {
      const data = newest
      newest = undefined
      if (data !== undefined) yield frame({ event: 'snapshot', data })
      else {
        news = createSignal()
        await news.wait({ signal })
      }
    }
  } finally {
    unsubscribe()
  }
}
