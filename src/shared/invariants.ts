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
  /** checked rows */
  looked_at: number
  /** ids or references of violations, at most OFFENDERS of them */
  offenders: string[]
}

/** Violations that one check names. */
const OFFENDERS = 20
/** Seconds after which a queued row or an overdue hold counts as lost. */
const LATE_S = 60

interface Check {
  invariant: string
  /** a count of the checked rows */
  of: string
  /** a query of offending ids as `id` */
  broken: string
  /** uses an index and does not grow with past sales: a worker runs it every minute */
  quick?: true
}

/** Units of each resource, wallets included, by the purchases. */
const EFFECTS = `
  SELECT p.id, p.status, l.resource, sum(l.units)::bigint AS units FROM purchases p CROSS JOIN LATERAL (
    SELECT e ->> 'resource' AS resource, (e ->> 'units')::bigint AS units FROM jsonb_array_elements(p.lines) e
    UNION ALL SELECT p.payment ->> 'account', p.amount WHERE p.payment ->> 'method' = 'wallet' AND p.amount > 0
  ) l WHERE p.status NOT IN ('queued', 'rejected', 'failed') GROUP BY p.id, p.status, l.resource`

const LEDGER = `
  SELECT resource,
         coalesce(sum(delta) FILTER (WHERE purchase IS NULL AND booking IS NULL), 0)::bigint AS total,
         coalesce(-sum(delta) FILTER (WHERE num_nonnulls(purchase, booking) > 0 AND reason IN ('hold', 'release')), 0)::bigint
           AS held,
         coalesce(-sum(delta) FILTER (WHERE num_nonnulls(purchase, booking) > 0 AND reason IN ('sale', 'refund')), 0)::bigint
           AS sold,
         sum(delta)::bigint AS available
  FROM ledger_entries GROUP BY resource`

/** Holdings of customers of resources with a limit, by the ledger, and the time of the last increase. */
const HAVE = `
  SELECT m.resource, p.customer, -sum(m.delta)::bigint AS units,
         max(m.created_at) FILTER (WHERE m.reason = 'hold' OR (m.reason = 'sale' AND NOT EXISTS (
           SELECT 1 FROM ledger_entries f WHERE f.resource = m.resource AND f.purchase = m.purchase AND f.reason = 'hold')))
           AS last
  FROM ledger_entries m JOIN resources r ON r.ref = m.resource AND r.max_per_customer IS NOT NULL
  JOIN purchases p ON p.id = m.purchase GROUP BY m.resource, p.customer HAVING sum(m.delta) <> 0`

/** Charges and refunds by purchase or booking. */
const CHARGES = `SELECT coalesce(purchase, booking) AS id, purpose, status, amount, due_at FROM charges`

/**
 * Money of each charge that went back or will: `refunds` by pending and successful refunds, `back` also by our failed refunds,
 * which are retried, and by lost disputes, `there` by refunds made at the provider; `ours`: there is a refund of our own.
 */
const BACK = `
  SELECT coalesce(purchase, booking) AS id,
         coalesce(sum(amount) FILTER (WHERE purpose = 'refund' AND status IN ('pending', 'refunded')), 0)::bigint AS refunds,
         coalesce(sum(amount) FILTER (WHERE purpose = 'refund' AND (status IN ('pending', 'refunded') OR status = 'failed' AND NOT at_provider)
           OR purpose = 'dispute' AND status = 'lost'), 0)::bigint AS back,
         coalesce(sum(amount) FILTER (WHERE purpose = 'refund' AND at_provider AND status = 'refunded'), 0)::bigint AS there,
         bool_or(purpose = 'refund' AND NOT at_provider) AS ours
  FROM charges WHERE purpose IN ('refund', 'dispute') GROUP BY coalesce(purchase, booking)`

/** Seconds after which a charge counts as stuck: longer than an outage of a provider usually lasts. */
const STILL_S = 3_600
/** Our charges and refunds that have not ended for STILL_S, and charges that were not checked in time. */
export const STANDING_STILL = `
  SELECT coalesce(purchase, booking) AS id FROM charges
  WHERE status IN ('pending', 'sent', 'authorized', 'capturing', 'failed') AND NOT at_provider
    AND created_at < now() - interval '${STILL_S} s'
  UNION ALL
  SELECT coalesce(purchase, booking) FROM charges
  WHERE status = 'captured' AND ask_at IS NOT NULL AND ask_at < now() - interval '${STILL_S} s'`

/** Purchases and bookings that are paid by card, and whose charge pays them: a replacement is paid by the replaced one's. */
const SOLD_BY_CARD = `
  SELECT id, coalesce(replaces, id) AS payer, amount FROM (
    SELECT id, replaces, amount, payment FROM purchases WHERE status = 'confirmed'
    UNION ALL SELECT id, replaces, amount, payment FROM bookings WHERE status IN ('accepted', 'completed')
  ) sold WHERE payment ->> 'method' = 'card' AND amount > 0`

/** Resources with the currencies in which they were sold (purchases of one item) or have paid (wallets). */
const PRICED = `
  SELECT queue AS resource, currency FROM purchases
  WHERE jsonb_array_length(lines) = 1 AND amount > 0 AND status NOT IN ('queued', 'rejected', 'failed')
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
    broken: `SELECT ref AS id FROM resources WHERE available < 0 OR held < 0 OR available + held > total`,
    quick: true,
  },
  {
    invariant: 'the ledger gives the same total, available, held and sold',
    of: `SELECT count(*) FROM ledger_entries`,
    broken: `SELECT coalesce(r.ref, m.resource) AS id FROM resources r FULL JOIN (${LEDGER}) m ON m.resource = r.ref
             WHERE (coalesce(r.total, 0), coalesce(r.available, 0), coalesce(r.held, 0),
                    coalesce(r.total - r.available - r.held, 0))
               <> (coalesce(m.total, 0), coalesce(m.available, 0), coalesce(m.held, 0), coalesce(m.sold, 0))`,
  },
  {
    invariant: 'never double-booked: no two active bookings of a resource overlap',
    of: `SELECT count(*) FROM bookings WHERE status IN ('requested', 'accepted')`,
    broken: `SELECT a.id FROM bookings a JOIN bookings b ON a.resource = b.resource AND a.id <> b.id
             AND a.during && b.during AND a.status IN ('requested', 'accepted') AND b.status IN ('requested', 'accepted')`,
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
    broken: `SELECT coalesce(b.id, m.booking) AS id FROM (SELECT * FROM bookings WHERE payment ->> 'method' = 'wallet') b
             FULL JOIN (
               SELECT booking, min(resource) AS resource, max(resource) AS other, sum(delta)::bigint AS net,
                      count(*) FILTER (WHERE reason IN ('sale', 'hold')) AS taken
               FROM ledger_entries WHERE booking IS NOT NULL GROUP BY booking
             ) m ON m.booking = b.id
             WHERE b.id IS NULL OR m.resource <> b.payment ->> 'account' OR m.other <> m.resource
                OR coalesce(m.net, 0) <> CASE WHEN b.status IN ('requested', 'accepted', 'completed') THEN -b.amount ELSE 0 END
                OR (b.status IN ('queued', 'rejected') AND m.booking IS NOT NULL)`,
  },
  {
    invariant: 'a booking was settled under no token above the one stored on its resource',
    of: `SELECT count(*) FROM bookings WHERE fencing_token IS NOT NULL`,
    broken: `SELECT b.id FROM bookings b JOIN resources r ON r.ref = b.resource WHERE b.fencing_token > r.fencing_token`,
  },
  {
    invariant: 'one effect per intent: each purchase moved exactly the units that its status says',
    of: `SELECT count(*) FROM purchases WHERE status NOT IN ('queued', 'rejected', 'failed')`,
    broken: `SELECT e.id FROM (${EFFECTS}) e LEFT JOIN (
               SELECT purchase, resource, sum(delta)::bigint AS net,
                      count(*) FILTER (WHERE reason IN ('sale', 'hold')) AS taken
               FROM ledger_entries WHERE purchase IS NOT NULL GROUP BY purchase, resource
             ) m ON m.purchase = e.id AND m.resource = e.resource
             WHERE CASE WHEN e.status IN ('held', 'confirmed') THEN m.net IS DISTINCT FROM -e.units
                        ELSE coalesce(m.net, 0) <> 0 END`,
  },
  {
    invariant: 'no units moved for a purchase that was not sold or held, or that does not exist',
    of: `SELECT count(*) FROM ledger_entries WHERE purchase IS NOT NULL`,
    broken: `SELECT m.purchase AS id FROM ledger_entries m LEFT JOIN purchases p ON p.id = m.purchase
             WHERE m.purchase IS NOT NULL AND (p.id IS NULL OR p.status IN ('queued', 'rejected'))
             UNION ALL
             SELECT purchase FROM ledger_entries JOIN purchases p ON p.id = purchase AND p.status = 'failed'
             GROUP BY purchase, resource HAVING sum(delta) <> 0`,
  },
  {
    // As far as it can be checked: a free item has no currency, and the amount of a cart is not split by resource.
    invariant: 'a ledger has one currency: sales and payments are in the currency of their resource',
    of: `SELECT count(*) FROM (${PRICED}) p`,
    broken: `SELECT r.ref AS id FROM (${PRICED}) p JOIN resources r ON r.ref = p.resource
             WHERE upper(r.currency) <> upper(p.currency)`,
  },
  {
    invariant: 'charges match the sales by card, one to one and by amount',
    of: `SELECT count(*) FROM (${SOLD_BY_CARD}) s`,
    broken: `SELECT coalesce(s.id, c.id) AS id FROM (${SOLD_BY_CARD}) s FULL JOIN (
               SELECT c.id, c.amount FROM (${CHARGES}) c LEFT JOIN (${BACK}) b ON b.id = c.id
               WHERE c.purpose = 'charge' AND c.status IN ('capturing', 'captured')
                 AND b.ours IS NOT TRUE AND coalesce(b.back, 0) < c.amount
             ) c ON c.id = s.payer
             LEFT JOIN (${BACK}) b ON b.id = s.payer
             WHERE s.id IS NULL OR s.amount IS DISTINCT FROM c.amount AND coalesce(b.back, 0) < s.amount`,
  },
  {
    invariant: 'a sale that was fully refunded at the provider is undone',
    of: `SELECT count(*) FROM charges WHERE purpose = 'refund' AND at_provider`,
    broken: `SELECT s.id FROM (
               SELECT id, coalesce(replaces, id) AS payer FROM purchases WHERE status = 'confirmed'
               UNION ALL SELECT id, coalesce(replaces, id) FROM bookings WHERE status = 'accepted' AND upper(during) > now()
             ) s JOIN (${BACK}) b ON b.id = s.payer AND b.there > 0
             JOIN (${CHARGES}) c ON c.id = s.payer AND c.purpose = 'charge' AND b.there >= c.amount
             WHERE NOT EXISTS (SELECT 1 FROM commands d WHERE coalesce(d.purchase, d.booking) = s.id AND d.status = 'queued')`,
  },
  {
    invariant: 'captured money without a sale is refunded in full',
    of: `SELECT count(*) FROM charges WHERE purpose = 'charge' AND status = 'captured'`,
    broken: `SELECT c.id FROM (${CHARGES}) c LEFT JOIN (${BACK}) b ON b.id = c.id
             WHERE c.purpose = 'charge' AND c.status = 'captured' AND coalesce(b.back, 0) < c.amount
               AND NOT EXISTS (SELECT 1 FROM (${SOLD_BY_CARD}) s WHERE s.payer = c.id)`,
  },
  {
    invariant:
      'no reservation is left on a card: authorized money is captured for a sale or refunded, or a command for it is queued',
    of: `SELECT count(*) FROM charges WHERE purpose = 'charge'`,
    broken: `SELECT c.id FROM (${CHARGES}) c
             WHERE c.purpose = 'charge' AND (c.status = 'lost' OR (c.status = 'authorized'
               AND NOT EXISTS (SELECT 1 FROM (${CHARGES}) r WHERE r.id = c.id AND r.purpose = 'refund')
               AND NOT EXISTS (SELECT 1 FROM commands d WHERE coalesce(d.purchase, d.booking) = c.id
                               AND d.command = 'paid' AND d.status = 'queued')))`,
  },
  {
    invariant: 'refunds never exceed what was captured',
    of: `SELECT count(*) FROM charges WHERE purpose = 'refund'`,
    broken: `SELECT r.id FROM (${CHARGES}) r LEFT JOIN (${CHARGES}) c ON c.id = r.id AND c.purpose = 'charge'
             LEFT JOIN (${BACK}) b ON b.id = r.id
             WHERE r.purpose = 'refund' AND (c.id IS NULL OR b.refunds > c.amount
               OR (r.status = 'refunded' AND c.status <> 'captured'))`,
  },
  {
    invariant: `no charge and no refund is left behind: none is overdue by ${LATE_S} s`,
    of: `SELECT count(*) FROM charges WHERE status IN ('pending', 'sent', 'capturing', 'failed') AND NOT at_provider`,
    broken: `SELECT coalesce(purchase, booking) AS id FROM charges
             WHERE status IN ('pending', 'sent', 'capturing', 'failed') AND NOT at_provider
               AND due_at < now() - interval '${LATE_S} s'`,
    quick: true,
  },
  {
    invariant: `no charge, refund or check at the provider is stuck for ${STILL_S / 60} minutes`,
    of: `SELECT count(*) FROM charges WHERE status IN ('pending', 'sent', 'authorized', 'capturing', 'failed') AND NOT at_provider`,
    broken: STANDING_STILL,
    quick: true,
  },
  {
    invariant: 'the holdings of customers of limited resources match the ledger',
    of: `SELECT count(*) FROM resources WHERE max_per_customer IS NOT NULL`,
    broken: `SELECT coalesce(u.resource, h.resource) || ' ' || coalesce(u.customer, h.customer) AS id FROM (
               SELECT u.* FROM customer_holdings u JOIN resources r ON r.ref = u.resource AND r.max_per_customer IS NOT NULL
             ) u FULL JOIN (${HAVE}) h ON h.resource = u.resource AND h.customer = u.customer
             WHERE coalesce(u.units, 0) <> coalesce(h.units, 0)`,
  },
  {
    invariant: 'no customer bought more than the limit that was set at the time',
    of: `SELECT count(*) FROM customer_holdings`,
    broken: `SELECT h.resource || ' ' || h.customer AS id FROM (${HAVE}) h JOIN resources r ON r.ref = h.resource
             WHERE h.units > r.max_per_customer AND h.last > r.limit_set_at`,
  },
  {
    invariant: 'a stale lease holder wrote nothing: no fencing token above the one stored on the resource',
    of: `SELECT count(*) FROM ledger_entries WHERE fencing_token IS NOT NULL`,
    broken: `SELECT m.resource || ' #' || m.id AS id FROM ledger_entries m JOIN resources r ON r.ref = m.resource
             WHERE m.fencing_token > r.fencing_token`,
  },
  {
    invariant: 'tokens rise: in the ledger of a resource no fencing token is lower than an earlier one',
    of: `SELECT count(*) FROM ledger_entries WHERE fencing_token IS NOT NULL`,
    broken: `SELECT resource || ' #' || id AS id FROM (
               SELECT resource, id, fencing_token, max(fencing_token) OVER (PARTITION BY resource ORDER BY id) AS highest
               FROM ledger_entries WHERE fencing_token IS NOT NULL
             ) m WHERE fencing_token < highest`,
  },
  {
    invariant: 'no event is missing: the events of a resource are numbered without a gap, up to the last number given',
    of: `SELECT count(*) FROM outbox`,
    broken: `SELECT resource AS id FROM (
               SELECT resource, last_sequence - cardinality(statuses) AS before,
                      lag(last_sequence) OVER (PARTITION BY resource ORDER BY id) AS found FROM outbox
             ) o WHERE before <> found
             UNION ALL
             SELECT h.resource FROM outbox_sequences h
             WHERE h.last_sequence <> (SELECT o.last_sequence FROM outbox o WHERE o.resource = h.resource ORDER BY o.id DESC LIMIT 1)`,
  },
  {
    // A long queue is no fault, a queue without progress is.
    invariant: `nothing acknowledged is lost: no queue with a queued row has made no progress for ${LATE_S} s`,
    of: `SELECT (SELECT count(*) FROM purchases) + (SELECT count(*) FROM bookings)`,
    broken: `SELECT id FROM (
               SELECT id, queue, created_at FROM purchases WHERE status = 'queued'
               UNION ALL SELECT id, queue, created_at FROM commands WHERE status = 'queued'
               UNION ALL SELECT id, resource, created_at FROM bookings WHERE status = 'queued'
             ) q WHERE created_at < now() - interval '${LATE_S} s' AND queue NOT IN (
               SELECT queue FROM purchases WHERE settled_at > now() - interval '${LATE_S} s'
               UNION ALL SELECT resource FROM bookings WHERE settled_at > now() - interval '${LATE_S} s')`,
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

/** Milliseconds a quick check may take. */
export const QUICK_MS = 10_000
/** Seconds in which a queue whose lease is held settles a row, if it has one. */
const BLOCKED_S = 10
/** Rows before and after the first queued one among which the last settlement of its queue is searched. */
const NEIGHBOURS = 50

const recent = `settled_at > now() - interval '${BLOCKED_S} s'`
/** A row of this table near the first queued one of its queue was settled recently: ids are in order of time. */
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
      UNION ALL SELECT queue, created_at FROM ${queueHeadsText('bookings', 'resource')} c
    ) head GROUP BY queue
  ) late WHERE since < now() - interval '${BLOCKED_S} s'
    AND NOT (${neighbour('purchases', 'queue')} OR ${neighbour('bookings', 'resource')})
    AND NOT EXISTS (SELECT 1 FROM (
      SELECT created_at FROM ledger_entries m
      WHERE m.resource = late.queue AND num_nonnulls(m.purchase, m.booking) > 0 ORDER BY m.id DESC LIMIT 1
    ) m WHERE created_at > now() - interval '${BLOCKED_S} s')
  ORDER BY since LIMIT ${OFFENDERS}`

/** Queues with a queued row and a held lease in which no row was settled for BLOCKED_S, each with the lock holder. */
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
  // Not in the transaction: it waits for the lock server, and a failure must not cost the findings above.
  const invariant = `no queue is blocked: none waits for ${BLOCKED_S} s while its lease is held and nothing is settled`
  const offenders = await blockedQueues(client, locks).catch((error) => [`not checked: ${(error as Error).message}`])
  return [...all, { invariant, looked_at: 0, offenders }]
}
