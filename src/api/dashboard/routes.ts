/**
 * The dashboard: a page at `/`, and its data at /api/dashboard, once or as a stream. Invariant: the page is public and
 * contains no data; all data comes from /api/dashboard, which requires a key as every route of /api does.
 */
import Type from 'typebox'
import { createSignal } from '../../shared/timeout.ts'
import type { Database } from '../database.ts'
import { problemResponses, response } from '../http/responses.ts'
import { createStreams, frame, HELLO } from '../http/sse.ts'
import type { TypedApp } from '../http/typed-app.ts'
import type { Collector } from './collector.ts'
import { RANGES, type Range, readSamples } from './fleet-samples.ts'
import { servePage } from './page.ts'
import { HistorySchema, SnapshotSchema } from './snapshot-schema.ts'

export interface DashboardOptions {
  dashboard: Collector
  db: Pick<Database, 'read'>
  /** the API requires a key */
  keys: boolean
}

/** Maximum number of open streams per process. */
const MAX_STREAMS = 200

/** Milliseconds after which a stream without news sends a sign of life: the page calls a server lost that is silent for 3 s. */
const ALIVE_MS = 1_000

const schema = {
  operationId: 'getDashboard',
  tags: ['operating'],
  summary: 'Get the dashboard: what is wrong, processes, stock, queues, locks, throughput, invariants',
  description:
    'As JSON, at most a second old; `condition` says the worst that is wrong in one sentence. With `Accept: ' +
    'text/event-stream` a stream: first the event `samples` with the throughput of the last minutes, then about once a ' +
    'second the event `snapshot` with this JSON. A slow client gets fewer snapshots.',
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

export async function dashboardRoutes(app: TypedApp, { dashboard, db, keys }: DashboardOptions): Promise<void> {
  await servePage(app, { keys })

  const streams = createStreams(app, MAX_STREAMS)
  app.get('/api/dashboard', { schema }, async (request, reply) => {
    reply.header('vary', 'accept')
    if (!/\btext\/event-stream\b/.test(request.headers.accept ?? '')) return (await dashboard.collect()).snapshot
    streams.assertCapacity()
    return streams.open(reply, (gone) => snapshotFrames(dashboard, gone)) as never
  })
  historyRoute(app, db)
}

const historySchema = {
  operationId: 'getDashboardHistory',
  tags: ['operating'],
  summary: "Get the fleet's figures of the last day",
  description:
    'Sampled every ten seconds, whether a dashboard is open or not, and kept for a day. Longer ranges have longer steps: a ' +
    'step has the average throughput and median wait, and the highest of the other figures, and is as bad as its worst sample.',
  querystring: Type.Object(
    { range: Type.Optional(Type.Enum(Object.keys(RANGES) as Range[], { default: '1h' })) },
    { additionalProperties: false },
  ),
  response: { 200: response(HistorySchema, 'The samples, oldest first'), ...problemResponses(400) },
}

function historyRoute(app: TypedApp, db: DashboardOptions['db']): void {
  app.get('/api/dashboard/history', { schema: historySchema }, async (request) => {
    const { range = '1h' } = request.query
    const samples = await db.read((client) => readSamples(client, range))
    return { range, step_s: RANGES[range].step_s, samples }
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
        await news.wait({ signal, within_ms: ALIVE_MS })
        if (newest === undefined) yield frame({})
      }
    }
  } finally {
    unsubscribe()
  }
}
