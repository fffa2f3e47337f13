/**
 * Verifies the invariants of DESIGN §2 on a live database, in one read-only snapshot. Every check counts the rows it has
 * checked and names those that violate it.
 */
import { sql } from 'drizzle-orm'
import { type Client, query } from './db/client.ts'
import { queueHeadsText } from './db/queue-heads.ts'
import type { Locks } from './locks/api.ts'

export interface Finding {
  invariant: string
  /** number of checked rows */
  looked_at: number
  /** ids or references of violations, at most OFFENDERS of them */
  offenders: string[]
}

/** Maximum number of violations that one check names. */
const OFFENDERS = 20
/** Seconds after which a queued row or an overdue hold counts as lost. */
const LATE_S = 60

interface Check {
  invariant: string
  /** a query that counts the checked rows */
  of: string
  /** a query that returns the offending ids as `id` */
  broken: string
  /** the check uses an index and its cost does not grow with past sales: a worker runs it every minute */
  quick?: true
}

/** Units that each purchase should have moved, by resource, including amounts from wallets. */
const EFFECTS = `
  SELECT p.id, p.status, l.resource, sum(l.units)::bigint AS units FROM purchases p CROSS JOIN LATERAL (
    SELECT e ->> 'resource' AS resource, (e ->> 'units')::bigint AS units FROM jsonb_array_elements(p.items) e
    UNION ALL SELECT p.payment ->> 'account', p.amount WHERE p.payment ->> 'method' = 'wallet' AND p.amount > 0
  ) l WHERE p.status NOT IN ('queued', 'rejected', 'failed') GROUP BY p.id, p.status, l.resource`

const LEDGER = `
  SELECT resource_id,
         coalesce(sum(delta) FILTER (WHERE purchase_id IS NULL AND booking_id IS NULL), 0)::bigint AS total,
         coalesce(-sum(delta) FILTER (WHERE num_nonnulls(purchase_id, booking_id) > 0 AND reason IN ('hold', 'release')), 0)::bigint
           AS held,
         coalesce(-sum(delta) FILTER (WHERE num_nonnulls(purchase_id, booking_id) > 0 AND reason IN ('sale', 'refund')), 0)::bigint
           AS sold,
         sum(delta)::bigint AS available
  FROM ledger_entries GROUP BY resource_id`

/** Units that each customer has of a resource with a limit, computed from the ledger, and the time of the last increase. */
const HAVE = `
  SELECT m.resource_id, p.customer, -sum(m.delta)::bigint AS units,
         max(m.created_at) FILTER (WHERE m.reason = 'hold' OR (m.reason = 'sale' AND NOT EXISTS (
           SELECT 1 FROM ledger_entries f WHERE f.resource_id = m.resource_id AND f.purchase_id = m.purchase_id AND f.reason = 'hold')))
           AS last
  FROM ledger_entries m JOIN resources r ON r.id = m.resource_id AND r.max_per_customer IS NOT NULL
  JOIN purchases p ON p.id = m.purchase_id GROUP BY m.resource_id, p.customer HAVING sum(m.delta) <> 0`

/** Charges and refunds with the id of their purchase or booking. */
const CHARGES = `SELECT coalesce(purchase_id, booking_id) AS id, kind, status, amount, next_attempt_at FROM charges`

/**
 * Money of each charge that went back or will go back. `refunds`: through pending and successful refunds. `back`: also through
 * our failed refunds, which are retried, and lost disputes. `there`: through refunds made at the provider. `ours`: whether the
 * charge has a refund that we requested.
 */
const BACK = `
  SELECT coalesce(purchase_id, booking_id) AS id,
         coalesce(sum(amount) FILTER (WHERE kind = 'refund' AND status IN ('pending', 'refunded')), 0)::bigint AS refunds,
         coalesce(sum(amount) FILTER (WHERE kind = 'refund' AND (status IN ('pending', 'refunded') OR status = 'failed' AND NOT at_provider)
           OR kind = 'dispute' AND status = 'lost'), 0)::bigint AS back,
         coalesce(sum(amount) FILTER (WHERE kind = 'refund' AND at_provider AND status = 'refunded'), 0)::bigint AS there,
         bool_or(kind = 'refund' AND NOT at_provider) AS ours
  FROM charges WHERE kind IN ('refund', 'dispute') GROUP BY coalesce(purchase_id, booking_id)`

/** Seconds after which a charge counts as stuck: longer than an outage of a provider usually lasts. */
const STILL_S = 3_600
/** Our charges and refunds that have not ended within STILL_S, and charges that were not checked in time. */
export const STANDING_STILL = `
  SELECT coalesce(purchase_id, booking_id) AS id FROM charges
  WHERE status IN ('pending', 'confirming', 'cancelling', 'authorized', 'capturing', 'failed') AND NOT at_provider
    AND created_at < now() - interval '${STILL_S} s'
  UNION ALL
  SELECT coalesce(purchase_id, booking_id) FROM charges
  WHERE status = 'captured' AND recheck_at IS NOT NULL AND recheck_at < now() - interval '${STILL_S} s'`

/**
 * Purchases and bookings that are paid by card, with the id of the row whose charge pays for them: a replacement is paid by the
 * charge of the row that it replaces.
 */
const SOLD_BY_CARD = `
  SELECT id, coalesce(replaces_id, id) AS payer, amount FROM (
    SELECT id, replaces_id, amount, payment FROM purchases WHERE status = 'confirmed'
    UNION ALL SELECT id, replaces_id, amount, payment FROM bookings WHERE status IN ('accepted', 'completed')
  ) sold WHERE payment ->> 'method' = 'card' AND amount > 0`

/** Resources with the currencies in which they were sold (purchases of one item) or have paid (wallets). */
const PRICED = `
  SELECT queue AS resource, currency FROM purchases
  WHERE jsonb_array_length(items) = 1 AND amount > 0 AND status NOT IN ('queued', 'rejected', 'failed')
  UNION ALL
  SELECT payment ->> 'account', currency FROM purchases
  WHERE payment ->> 'method' = 'wallet' AND amount > 0 AND status NOT IN ('queued', 'rejected', 'failed')
  UNION ALL
  SELECT payment ->> 'account', currency FROM bookings
  WHERE payment ->> 'method' = 'wallet' AND amount > 0 AND status NOT IN ('queued', 'rejected')`

const CHECKS: readonly Check[] = [
  {
    invariant: 'never oversold: 0 <= available, held and sold, together the total',
    of: `SELECT count(*) FROM resources`,
    broken: `SELECT id FROM resources WHERE available < 0 OR held < 0 OR available + held > total`,
    quick: true,
  },
  {
    invariant: 'the ledger gives the same total, available, held and sold',
    of: `SELECT count(*) FROM ledger_entries`,
    broken: `SELECT coalesce(r.id, m.resource_id) AS id FROM resources r FULL JOIN (${LEDGER}) m ON m.resource_id = r.id
             WHERE (coalesce(r.total, 0), coalesce(r.available, 0), coalesce(r.held, 0),
                    coalesce(r.total - r.available - r.held, 0))
               <> (coalesce(m.total, 0), coalesce(m.available, 0), coalesce(m.held, 0), coalesce(m.sold, 0))`,
  },
  {
    invariant: 'never double-booked: no two active bookings of a resource overlap',
    of: `SELECT count(*) FROM bookings WHERE status IN ('requested', 'accepted')`,
    broken: `SELECT a.id FROM bookings a JOIN bookings b ON a.resource_id = b.resource_id AND a.id <> b.id
             AND a.period && b.period AND a.status IN ('requested', 'accepted') AND b.status IN ('requested', 'accepted')`,
    quick: true,
  },
  {
    invariant: 'one active ride per rider',
    of: `SELECT count(*) FROM bookings WHERE kind = 'ride' AND status IN ('requested', 'accepted')`,
    broken: `SELECT unnest(array_agg(id)) AS id FROM bookings WHERE kind = 'ride' AND status IN ('requested', 'accepted')
             GROUP BY customer HAVING count(*) > 1`,
    quick: true,
  },
  {
    invariant: 'each booking moved exactly the money that its status says',
    of: `SELECT count(*) FROM bookings WHERE payment ->> 'method' = 'wallet'`,
    broken: `SELECT coalesce(b.id, m.booking_id) AS id FROM (SELECT * FROM bookings WHERE payment ->> 'method' = 'wallet') b
             FULL JOIN (
               SELECT booking_id, min(resource_id) AS resource_id, max(resource_id) AS other, sum(delta)::bigint AS net,
                      count(*) FILTER (WHERE reason IN ('sale', 'hold')) AS taken
               FROM ledger_entries WHERE booking_id IS NOT NULL GROUP BY booking_id
             ) m ON m.booking_id = b.id
             WHERE b.id IS NULL OR m.resource_id <> b.payment ->> 'account' OR m.other <> m.resource_id
                OR coalesce(m.net, 0) <> CASE WHEN b.status IN ('requested', 'accepted', 'completed') THEN -b.amount ELSE 0 END
                OR (b.status IN ('queued', 'rejected') AND m.booking_id IS NOT NULL)`,
  },
  {
    invariant: 'a booking was settled under no token above the one stored on its resource',
    of: `SELECT count(*) FROM bookings WHERE fencing_token IS NOT NULL`,
    broken: `SELECT b.id FROM bookings b JOIN resources r ON r.id = b.resource_id WHERE b.fencing_token > r.fencing_token`,
  },
  {
    invariant: 'one effect per intent: each purchase moved exactly the units that its status says',
    of: `SELECT count(*) FROM purchases WHERE status NOT IN ('queued', 'rejected', 'failed')`,
    broken: `SELECT e.id FROM (${EFFECTS}) e LEFT JOIN (
               SELECT purchase_id, resource_id, sum(delta)::bigint AS net,
                      count(*) FILTER (WHERE reason IN ('sale', 'hold')) AS taken
               FROM ledger_entries WHERE purchase_id IS NOT NULL GROUP BY purchase_id, resource_id
             ) m ON m.purchase_id = e.id AND m.resource_id = e.resource
             WHERE CASE WHEN e.status IN ('held', 'confirmed') THEN m.net IS DISTINCT FROM -e.units
                        ELSE coalesce(m.net, 0) <> 0 END`,
  },
  {
    invariant: 'no units moved for a purchase that was not sold or held, or that does not exist',
    of: `SELECT count(*) FROM ledger_entries WHERE purchase_id IS NOT NULL`,
    broken: `SELECT m.purchase_id AS id FROM ledger_entries m LEFT JOIN purchases p ON p.id = m.purchase_id
             WHERE m.purchase_id IS NOT NULL AND (p.id IS NULL OR p.status IN ('queued', 'rejected'))
             UNION ALL
             SELECT purchase_id FROM ledger_entries JOIN purchases p ON p.id = purchase_id AND p.status = 'failed'
             GROUP BY purchase_id, resource_id HAVING sum(delta) <> 0`,
  },
  {
    // This check is partial: a free item has no currency, and the amount of a cart is not split by resource.
    invariant: 'a ledger has one currency: sales and payments are in the currency of their resource',
    of: `SELECT count(*) FROM (${PRICED}) p`,
    broken: `SELECT r.id FROM (${PRICED}) p JOIN resources r ON r.id = p.resource
             WHERE upper(r.currency) <> upper(p.currency)`,
  },
  {
    invariant: 'charges match the sales by card, one to one and by amount',
    of: `SELECT count(*) FROM (${SOLD_BY_CARD}) s`,
    broken: `SELECT coalesce(s.id, c.id) AS id FROM (${SOLD_BY_CARD}) s FULL JOIN (
               SELECT c.id, c.amount FROM (${CHARGES}) c LEFT JOIN (${BACK}) b ON b.id = c.id
               WHERE c.kind = 'charge' AND c.status IN ('capturing', 'captured')
                 AND b.ours IS NOT TRUE AND coalesce(b.back, 0) < c.amount
             ) c ON c.id = s.payer
             LEFT JOIN (${BACK}) b ON b.id = s.payer
             WHERE s.id IS NULL OR s.amount IS DISTINCT FROM c.amount AND coalesce(b.back, 0) < s.amount`,
  },
  {
    invariant: 'a sale that was fully refunded at the provider is undone',
    of: `SELECT count(*) FROM charges WHERE kind = 'refund' AND at_provider`,
    broken: `SELECT s.id FROM (
               SELECT id, coalesce(replaces_id, id) AS payer FROM purchases WHERE status = 'confirmed'
               UNION ALL SELECT id, coalesce(replaces_id, id) FROM bookings WHERE status = 'accepted' AND upper(period) > now()
             ) s JOIN (${BACK}) b ON b.id = s.payer AND b.there > 0
             JOIN (${CHARGES}) c ON c.id = s.payer AND c.kind = 'charge' AND b.there >= c.amount
             WHERE NOT EXISTS (SELECT 1 FROM commands d WHERE coalesce(d.purchase_id, d.booking_id) = s.id AND d.status = 'queued')`,
  },
  {
    invariant: 'captured money without a sale is refunded in full',
    of: `SELECT count(*) FROM charges WHERE kind = 'charge' AND status = 'captured'`,
    broken: `SELECT c.id FROM (${CHARGES}) c LEFT JOIN (${BACK}) b ON b.id = c.id
             WHERE c.kind = 'charge' AND c.status = 'captured' AND coalesce(b.back, 0) < c.amount
               AND NOT EXISTS (SELECT 1 FROM (${SOLD_BY_CARD}) s WHERE s.payer = c.id)`,
  },
  {
    invariant:
      'no reservation is left on a card: authorized money is captured for a sale or refunded, or a command for it is queued',
    of: `SELECT count(*) FROM charges WHERE kind = 'charge'`,
    broken: `SELECT c.id FROM (${CHARGES}) c
             WHERE c.kind = 'charge' AND (c.status = 'authorization_lost' OR (c.status = 'authorized'
               AND NOT EXISTS (SELECT 1 FROM (${CHARGES}) r WHERE r.id = c.id AND r.kind = 'refund')
               AND NOT EXISTS (SELECT 1 FROM commands d WHERE coalesce(d.purchase_id, d.booking_id) = c.id
                               AND d.action = 'paid' AND d.status = 'queued')))`,
  },
  {
    invariant: 'refunds never exceed what was captured',
    of: `SELECT count(*) FROM charges WHERE kind = 'refund'`,
    broken: `SELECT r.id FROM (${CHARGES}) r LEFT JOIN (${CHARGES}) c ON c.id = r.id AND c.kind = 'charge'
             LEFT JOIN (${BACK}) b ON b.id = r.id
             WHERE r.kind = 'refund' AND (c.id IS NULL OR b.refunds > c.amount
               OR (r.status = 'refunded' AND c.status <> 'captured'))`,
  },
  {
    invariant: `no charge and no refund is left behind: none is overdue by ${LATE_S} s`,
    of: `SELECT count(*) FROM charges WHERE status IN ('pending', 'confirming', 'cancelling', 'capturing', 'failed') AND NOT at_provider`,
    broken: `SELECT coalesce(purchase_id, booking_id) AS id FROM charges
             WHERE status IN ('pending', 'confirming', 'cancelling', 'capturing', 'failed') AND NOT at_provider
               AND next_attempt_at < now() - interval '${LATE_S} s'`,
    quick: true,
  },
  {
    invariant: `no charge, refund or check at the provider is stuck for ${STILL_S / 60} minutes`,
    of: `SELECT count(*) FROM charges WHERE status IN ('pending', 'confirming', 'cancelling', 'authorized', 'capturing', 'failed') AND NOT at_provider`,
    broken: STANDING_STILL,
    quick: true,
  },
  {
    invariant: 'the holdings of customers of limited resources match the ledger',
    of: `SELECT count(*) FROM resources WHERE max_per_customer IS NOT NULL`,
    broken: `SELECT coalesce(u.resource_id, h.resource_id) || ' ' || coalesce(u.customer, h.customer) AS id FROM (
               SELECT u.* FROM customer_holdings u JOIN resources r ON r.id = u.resource_id AND r.max_per_customer IS NOT NULL
             ) u FULL JOIN (${HAVE}) h ON h.resource_id = u.resource_id AND h.customer = u.customer
             WHERE coalesce(u.units, 0) <> coalesce(h.units, 0)`,
  },
  {
    invariant: 'no customer bought more than the limit that was set at the time',
    of: `SELECT count(*) FROM customer_holdings`,
    broken: `SELECT h.resource_id || ' ' || h.customer AS id FROM (${HAVE}) h JOIN resources r ON r.id = h.resource_id
             WHERE h.units > r.max_per_customer AND h.last > r.limit_set_at`,
  },
  {
    invariant: 'a stale lease holder wrote nothing: no fencing token above the one stored on the resource',
    of: `SELECT count(*) FROM ledger_entries WHERE fencing_token IS NOT NULL`,
    broken: `SELECT m.resource_id || ' #' || m.id AS id FROM ledger_entries m JOIN resources r ON r.id = m.resource_id
             WHERE m.fencing_token > r.fencing_token`,
  },
  {
    invariant: 'tokens rise: in the ledger of a resource no fencing token is lower than an earlier one',
    of: `SELECT count(*) FROM ledger_entries WHERE fencing_token IS NOT NULL`,
    broken: `SELECT resource_id || ' #' || id AS id FROM (
               SELECT resource_id, id, fencing_token, max(fencing_token) OVER (PARTITION BY resource_id ORDER BY id) AS highest
               FROM ledger_entries WHERE fencing_token IS NOT NULL
             ) m WHERE fencing_token < highest`,
  },
  {
    invariant: 'no event is missing: the events of a resource are numbered without a gap, up to the last number given',
    of: `SELECT count(*) FROM outbox`,
    broken: `SELECT resource_id AS id FROM (
               SELECT resource_id, last_sequence - cardinality(statuses) AS before,
                      lag(last_sequence) OVER (PARTITION BY resource_id ORDER BY id) AS found FROM outbox
             ) o WHERE before <> found
             UNION ALL
             SELECT h.resource_id FROM outbox_sequences h
             WHERE h.last_sequence <> (SELECT o.last_sequence FROM outbox o WHERE o.resource_id = h.resource_id ORDER BY o.id DESC LIMIT 1)`,
  },
  {
    // A long queue is not a fault; a queue without progress is a fault.
    invariant: `nothing acknowledged is lost: no queue with a queued row has made no progress for ${LATE_S} s`,
    of: `SELECT (SELECT count(*) FROM purchases) + (SELECT count(*) FROM bookings)`,
    broken: `SELECT id FROM (
               SELECT id, queue, created_at FROM purchases WHERE status = 'queued'
               UNION ALL SELECT id, queue, created_at FROM commands WHERE status = 'queued'
               UNION ALL SELECT id, resource_id, created_at FROM bookings WHERE status = 'queued'
             ) q WHERE created_at < now() - interval '${LATE_S} s' AND queue NOT IN (
               SELECT queue FROM purchases WHERE settled_at > now() - interval '${LATE_S} s'
               UNION ALL SELECT resource_id FROM bookings WHERE settled_at > now() - interval '${LATE_S} s')`,
    quick: true,
  },
  {
    invariant: `no booking request is overdue by ${LATE_S} s`,
    of: `SELECT count(*) FROM bookings WHERE status = 'requested'`,
    broken: `SELECT id FROM bookings WHERE status = 'requested' AND expires_at < now() - interval '${LATE_S} s'`,
    quick: true,
  },
  {
    invariant: `nothing is undersold: no hold is overdue by ${LATE_S} s`,
    of: `SELECT count(*) FROM purchases WHERE status = 'held'`,
    broken: `SELECT id FROM purchases WHERE status = 'held' AND expires_at < now() - interval '${LATE_S} s'`,
    quick: true,
  },
]

/** Time limit of a quick check, in milliseconds. */
export const QUICK_MS = 10_000
/** Seconds within which workers must settle a row of a queue that has rows and whose lease is held. */
export const BLOCKED_S = 10
/** How many rows before and after the first queued row are searched for a recent settlement of the queue. */
const NEIGHBOURS = 50

const recent = `settled_at > now() - interval '${BLOCKED_S} s'`
/**
 * Builds a condition: a row of this table near the first queued row of the queue was settled recently. Ids are in order of
 * time.
 */
const neighbour = (table: string, queue: string) =>
  [
    ['<', 'DESC'],
    ['>', 'ASC'],
  ]
    .map(
      ([side, order]) => `EXISTS (SELECT 1 FROM (
        SELECT settled_at FROM ${table} n WHERE n.${queue} = late.queue AND n.id ${side} (
          SELECT id FROM ${table} h WHERE h.${queue} = late.queue AND status = 'queued' ORDER BY seq LIMIT 1)
        ORDER BY n.id ${order} LIMIT ${NEIGHBOURS}) n WHERE ${recent})`,
    )
    .join(' OR ')

const NOT_MOVING = `
  SELECT queue FROM (
    SELECT queue, min(created_at) AS since FROM (
      SELECT queue, created_at FROM ${queueHeadsText('purchases')} a
      UNION ALL SELECT queue, created_at FROM ${queueHeadsText('commands')} b
      UNION ALL SELECT queue, created_at FROM ${queueHeadsText('bookings', 'resource_id')} c
    ) head GROUP BY queue
  ) late WHERE since < now() - interval '${BLOCKED_S} s'
    AND NOT (${neighbour('purchases', 'queue')} OR ${neighbour('bookings', 'resource_id')})
    AND NOT EXISTS (SELECT 1 FROM (
      SELECT created_at FROM ledger_entries m
      WHERE m.resource_id = late.queue AND num_nonnulls(m.purchase_id, m.booking_id) > 0 ORDER BY m.id DESC LIMIT 1
    ) m WHERE created_at > now() - interval '${BLOCKED_S} s')
  ORDER BY since LIMIT ${OFFENDERS}`

/**
 * Returns the queues with a queued row and a held lease in which no row was settled for BLOCKED_S, each with the lock
 * holder.
 */
export async function blockedQueues(client: Client, locks: Pick<Locks, 'inspect'>): Promise<string[]> {
  const rows = await query<{ queue: string }>(client, sql.raw(NOT_MOVING))
  const states = await Promise.all(rows.map(({ queue }) => locks.inspect(queue)))
  return states.flatMap(({ resource, holders: [holder] }) => (holder ? [`${resource} (held by ${holder.owner})`] : []))
}

/**
 * Runs the checks in one read-only snapshot; with `quick` only the quick ones, without counting the checked rows; with
 * `locks` also the check for queues without progress while their lease is held.
 */
export async function verify(
  client: Client,
  { quick = false, locks }: { quick?: boolean; locks?: Pick<Locks, 'inspect'> } = {},
): Promise<Finding[]> {
  const all = await client.begin('ISOLATION LEVEL REPEATABLE READ READ ONLY', async (tx) => {
    const findings: Finding[] = []
    if (quick) await query(tx, sql.raw(`SET LOCAL statement_timeout = ${QUICK_MS}`))
    for (const { invariant, of, broken } of CHECKS.filter((one) => one.quick || !quick)) {
      const [row] = await query<{ looked_at: number; offenders: string[] }>(
        tx,
        sql.raw(`SELECT (${quick ? '0' : of}) AS looked_at,
                        coalesce((SELECT json_agg(id::text) FROM (SELECT DISTINCT id FROM (${broken}) b
                                  LIMIT ${OFFENDERS}) o), '[]') AS offenders`),
      )
      findings.push({ invariant, looked_at: row?.looked_at ?? 0, offenders: row?.offenders ?? [] })
    }
    return findings
  })
  if (!locks) return all
  // Run this check outside the transaction: it waits for the lock server, and its failure must not lose the findings above.
  const invariant = `no queue is blocked: none waits for ${BLOCKED_S} s while its lease is held and nothing is settled`
  const offenders = await blockedQueues(client, locks).catch((error) => [`not checked: ${(error as Error).message}`])
  return [...all, { invariant, looked_at: 0, offenders }]
}
