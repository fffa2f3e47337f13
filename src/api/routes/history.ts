/**
 * `GET /api/purchases/{id}/history` and `/api/bookings/{id}/history`: what has happened to a row, and what it waits for.
 * Invariant: they only read; the history is answered while the lock server is away, without the holder of the queue's lease.
 */
import type { Locks } from '../../shared/locks/api.ts'
import { Problem } from '../../shared/problem.ts'
import { withTimeout } from '../../shared/timeout.ts'
import type { Database } from '../database.ts'
import { problemResponses, response } from '../http/responses.ts'
import { BOOKING_SAMPLES, PURCHASE_SAMPLES } from '../http/samples.ts'
import { IdParams } from '../http/schemas.ts'
import type { TypedApp } from '../http/typed-app.ts'
import { HISTORY, type HistoryRow, queuePosition } from '../queue/history-rows.ts'
import type { QueuedRow } from '../queue/submission.ts'
import { HistoryRef, type Waiting } from './history-schema.ts'
import { awaitedBy, historyOf, waitingForHold, waitingForProvider, waitingInQueue } from './history-view.ts'

/** Milliseconds that the lock server has to name the holder of a lease. */
const HOLDER_MS = 1_000

interface RowReader {
  readOne(id: string): Promise<QueuedRow>
}
export interface HistoryOptions {
  db: Pick<Database, 'query'>
  locks: Pick<Locks, 'inspect'>
  purchases: RowReader
  bookings: RowReader
  provider: 'sandbox' | 'stripe'
}

const schema = (noun: 'purchase' | 'booking', operationId: string, sample: string) => ({
  operationId,
  tags: [`${noun}s`],
  summary: `Get the history of a ${noun}`,
  description:
    `What has happened to the ${noun}, in order, and what it waits for. \`by\` and \`fencing_token\` name the process that ` +
    'settled it and the lease under which it did; rows that an older version settled have no `by`. Deliveries to webhook ' +
    'endpoints are kept as long as events.',
  params: IdParams(sample),
  response: { 200: response(HistoryRef, 'The history'), ...problemResponses(400, 404) },
})

export async function historyRoutes(app: TypedApp, options: HistoryOptions): Promise<void> {
  const of = {
    purchase: schema('purchase', 'getPurchaseHistory', PURCHASE_SAMPLES.confirmed),
    booking: schema('booking', 'getBookingHistory', BOOKING_SAMPLES.complete),
  }
  app.get('/api/purchases/:id/history', { schema: of.purchase }, async (request) =>
    read(options, 'purchase', request.params.id),
  )
  app.get('/api/bookings/:id/history', { schema: of.booking }, async (request) =>
    read(options, 'booking', request.params.id),
  )
}

async function read(options: HistoryOptions, noun: 'purchase' | 'booking', id: string) {
  // This read locks an overdue row before it reports it as expired; a confirm that comes after it is refused.
  const { overdue } = await options[`${noun}s`].readOne(id)
  const [row] = await options.db.query(HISTORY[noun], { id })
  if (!row) throw new Problem(404, 'not_found', `There is no ${noun} ${id}.`)
  const expired = overdue && (row.status === 'held' || row.status === 'requested')
  return { history: historyOf(row, expired), waiting_for: await waitingFor(options, row, expired) }
}

async function waitingFor(
  { db, locks, provider }: HistoryOptions,
  row: HistoryRow,
  expired: boolean,
): Promise<Waiting | null> {
  const awaited = awaitedBy(row, expired)
  if (awaited === undefined) return null
  if ('until_us' in awaited) return waitingForHold(awaited.until_us)
  if ('next_attempt_us' in awaited) return waitingForProvider(awaited.what, provider, awaited.next_attempt_us)
  const { queue } = row
  const [[position], lock] = await Promise.all([
    db.query(queuePosition, { queue, seq: awaited.seq }),
    withTimeout(locks.inspect(queue), HOLDER_MS).catch(() => undefined),
  ])
  return waitingInQueue(awaited, queue, position ?? { ahead: 0, head: null }, lock)
}
