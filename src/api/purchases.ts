/**
 * Purchases over HTTP. Invariant: this side only writes rows that stand in a line; what becomes of them is decided by
 * the workers, and every answer about a settled purchase is read from its committed row.
 */
import { createHash } from 'node:crypto'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { type SQL, sql } from 'drizzle-orm'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import Type from 'typebox'
import { v7 as uuidv7 } from 'uuid'
import { UnavailableError } from '../shared/breaker.ts'
import { type Client, run, type Transaction } from '../shared/db.ts'
import { badField, Problem } from '../shared/problem.ts'
import { mergeLines, queueOf } from '../shared/resource.ts'
import {
  COMMANDS,
  type CommandKind,
  type Line,
  type Payment,
  PURCHASE_STATUSES,
  type PurchaseStatus,
} from '../shared/schema.ts'
import {
  answers,
  fromCursor,
  idempotencyKey,
  idempotencyScope,
  iso,
  MAX_WAIT_S,
  Nullable,
  PLAIN_TEXT,
  page,
  pageQuery,
  preferredWait,
  problems,
  Ref,
  Time,
  toCursor,
  UUID,
} from './http.ts'
import type { Intake } from './intake.ts'
import { reusedKey } from './resources.ts'
import type { Waits } from './wait.ts'

const MAX_LINES = 100
const MAX_UNITS = 1_000_000_000
/** Longest hold, in seconds: a week. */
const MAX_HOLD_S = 604_800
/** Milliseconds a command waits to be settled when nothing else is preferred. */
const COMMAND_WAIT_MS = 10_000
/** Seconds after which looking at a queued purchase makes sense. */
const RETRY_AFTER_S = 1
const REPLAYED = 'idempotent-replayed'
const ID_PATTERN = '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$'

const LineSchema = Type.Object(
  { resource: Ref(['product:1']), units: Type.Integer({ minimum: 1, maximum: MAX_UNITS }) },
  { additionalProperties: false },
)
const PaymentSchema = Type.Unsafe<Payment>({
  type: 'object',
  discriminator: { propertyName: 'method' },
  required: ['method'],
  oneOf: [
    Type.Object({ method: Type.Literal('none') }, { additionalProperties: false }),
    Type.Object(
      {
        method: Type.Literal('card'),
        token: Type.String({ minLength: 1, maxLength: 200, pattern: '^[\\x21-\\x7e]+$' }),
      },
      { additionalProperties: false },
    ),
    Type.Object(
      {
        method: Type.Literal('wallet'),
        account: Type.String({ pattern: '^account:[A-Za-z0-9][A-Za-z0-9._~-]{0,127}$' }),
      },
      { additionalProperties: false },
    ),
  ],
})
const NewPurchaseSchema = Type.Object(
  {
    customer: Type.String({ minLength: 1, maxLength: 200, format: PLAIN_TEXT }),
    lines: Type.Array(LineSchema, { minItems: 1, maxItems: MAX_LINES }),
    payment: Type.Optional(PaymentSchema),
    hold_seconds: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_HOLD_S })),
  },
  {
    additionalProperties: false,
    examples: [{ customer: 'ada', lines: [{ resource: 'product:1', units: 1 }], payment: { method: 'none' } }],
  },
)

export const PurchaseSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    seq: Type.Integer({ description: 'Place in the line: first come, first served' }),
    status: Type.Enum([...PURCHASE_STATUSES]),
    reason: Nullable(Type.String({ description: 'Why, when rejected, failed or cancelled' })),
    customer: Type.String(),
    lines: Type.Array(Type.Object({ resource: Type.String(), units: Type.Integer() })),
    amount: Nullable(Type.Integer({ description: 'Minor units; null until it is settled' })),
    currency: Nullable(Type.String()),
    payment: Type.Object({ method: Type.String(), account: Type.Optional(Type.String()) }),
    hold_seconds: Nullable(Type.Integer()),
    expires_at: Nullable(Time),
    fence: Nullable(Type.Integer({ description: 'Fencing token of the lease it was settled under' })),
    created_at: Time,
    settled_at: Nullable(Time),
  },
  {
    $id: 'Purchase',
    examples: [
      {
        id: '01935f5e-0000-7000-8000-000000000001',
        seq: 1,
        status: 'confirmed',
        reason: null,
        customer: 'ada',
        lines: [{ resource: 'product:1', units: 1 }],
        amount: 99_900,
        currency: 'USD',
        payment: { method: 'none' },
        hold_seconds: null,
        expires_at: null,
        fence: 1_795_257_640_880_613,
        created_at: '2026-11-21T10:00:00.000Z',
        settled_at: '2026-11-21T10:00:00.012Z',
      },
    ],
  },
)
type Purchase = Type.Static<typeof PurchaseSchema>

interface Row {
  id: string
  seq: number
  queue: string
  status: PurchaseStatus
  reason: string | null
  customer: string
  lines: Line[]
  amount: number | null
  currency: string | null
  payment: Payment
  hold_seconds: number | null
  expires_at: string | null
  fence: number | null
  created_at: string
  settled_at: string | null
  overdue: boolean
}

const COLUMNS = sql.raw(`id, seq, queue, status, reason, customer, lines, amount, currency, payment, hold_seconds,
  expires_at, fence, created_at, settled_at, status = 'held' AND expires_at <= clock_timestamp() AS overdue`)

const optional = (at: string | null) => (at === null ? null : iso(at))

function present(row: Row): Purchase {
  const { method } = row.payment
  return {
    id: row.id,
    seq: row.seq,
    status: row.overdue ? 'expired' : row.status,
    reason: row.reason,
    customer: row.customer,
    lines: row.lines,
    amount: row.amount,
    currency: row.currency,
    // A card's token never leaves again.
    payment: row.payment.method === 'wallet' ? { method, account: row.payment.account } : { method },
    hold_seconds: row.hold_seconds,
    expires_at: optional(row.expires_at),
    fence: row.fence,
    created_at: iso(row.created_at),
    settled_at: optional(row.settled_at),
  }
}

/**
 * Rows as they may be told to a client. An overdue hold is told as expired, and only after a look under the row's lock:
 * a confirm that is being committed at this moment is waited for, and a later one is refused by its own clock check.
 */
async function readRows(client: Client, where: SQL): Promise<Row[]> {
  const rows = await run<Row>(client, sql`SELECT ${COLUMNS} FROM purchases ${where}`)
  const overdue = rows.filter((row) => row.overdue).map((row) => row.id)
  if (overdue.length === 0) return rows
  const again = await client.begin((tx: Transaction) =>
    run<Row>(
      tx,
      sql`SELECT ${COLUMNS} FROM purchases
          WHERE id IN (SELECT json_array_elements_text(${JSON.stringify(overdue)}::json)::uuid) ORDER BY id FOR SHARE`,
    ),
  )
  const fresh = new Map(again.map((row) => [row.id, row]))
  return rows.map((row) => fresh.get(row.id) ?? row)
}

/** Reads by id, all that are asked for in one turn of the event loop together: a notice wakes a batch of waiters. */
function createLook(client: Client, guarded: PurchaseRoutesDeps['guarded']) {
  let next: { ids: Set<string>; rows: Promise<Map<string, Row>> } | undefined
  return async (id: string): Promise<Row | undefined> => {
    if (!next) {
      const ids = new Set<string>()
      const rows = new Promise((resolve) => setImmediate(resolve)).then(async () => {
        next = undefined
        const wanted = JSON.stringify([...ids])
        const where = sql`WHERE id IN (SELECT json_array_elements_text(${wanted}::json)::uuid)`
        return new Map((await guarded(() => readRows(client, where))).map((row) => [row.id, row]))
      })
      next = { ids, rows }
    }
    next.ids.add(id.toLowerCase())
    return (await next.rows).get(id.toLowerCase())
  }
}

export interface PurchaseRoutesDeps {
  client: Client
  intake: Intake
  waits: Waits
  nudge(resources: Iterable<string>): void
  /** runs a question to Postgres behind the breaker */
  guarded<T>(body: () => Promise<T>): Promise<T>
}

export function purchaseRoutes(instance: FastifyInstance, deps: PurchaseRoutesDeps): void {
  const { client, intake, waits, guarded } = deps
  const app = instance.withTypeProvider<TypeBoxTypeProvider>()
  const PurchaseRef = Type.Unsafe<Purchase>(Type.Ref('Purchase'))
  const tags = ['purchases']
  const kinds = createKinds(client, guarded)
  // The pattern beside the format: Ajv's also takes `urn:uuid:…`, which Postgres does not.
  const IdParams = (example: string) =>
    Type.Object({ id: Type.String({ format: 'uuid', pattern: ID_PATTERN, examples: [example] }) })
  const Prefer = Type.Optional(
    Type.String({
      description: `wait=N: answer when settled, at most N seconds (N ≤ ${MAX_WAIT_S})`,
      examples: ['wait=10'],
    }),
  )
  const Key = Type.Optional(Type.String({ description: 'The same key and body give the same row, once' }))

  const look = createLook(client, guarded)

  async function readOne(id: string): Promise<Row> {
    const row = await look(id)
    if (!row) throw new Problem(404, 'not_found', `There is no purchase ${id}.`)
    return row
  }

  /** 202 while it stands in the line, else what became of it. */
  async function answer(reply: FastifyReply, row: Row): Promise<FastifyReply> {
    const purchase = present(row)
    if (purchase.status === 'queued') return accepted(reply, purchase)
    if (purchase.status === 'rejected' || purchase.status === 'failed') throw await refusal(row)
    if (purchase.status === 'held' || purchase.status === 'confirmed') return reply.code(201).send(purchase)
    throw new Problem(409, purchase.status, `The purchase is ${purchase.status}.`, { purchase })
  }

  async function refusal(row: Row): Promise<Problem> {
    const purchase = present(row)
    const code = row.reason ?? row.status
    if (row.status === 'failed') return new Problem(402, code, `The purchase failed: ${code}.`, { purchase })
    if (code !== 'sold_out') return new Problem(409, code, `The purchase was rejected: ${code}.`, { purchase })
    const refs = JSON.stringify(row.lines.map((line) => line.resource))
    const left = await guarded(() =>
      run<{ ref: string; available: number }>(
        client,
        sql`SELECT ref, available FROM resources WHERE ref IN (SELECT json_array_elements_text(${refs}::json))`,
      ),
    )
    const units = new Map(left.map(({ ref, available }) => [ref, available]))
    const short = row.lines.find((line) => (units.get(line.resource) ?? 0) < line.units) ?? row.lines[0]
    const available = units.get(short?.resource ?? '') ?? 0
    return soldOut(short, available, purchase)
  }

  function accepted(reply: FastifyReply, purchase: Purchase): FastifyReply {
    return reply.code(202).header('retry-after', RETRY_AFTER_S).send(purchase)
  }

  app.post(
    '/api/purchases',
    {
      schema: {
        operationId: 'createPurchase',
        tags,
        summary: 'Buy: a place in the line',
        description: 'Answers 202 at once; with `Prefer: wait=N` when the purchase is settled, N seconds at most.',
        headers: Type.Object({ prefer: Prefer, 'idempotency-key': Key }),
        body: NewPurchaseSchema,
        response: {
          201: answers(PurchaseRef, 'Settled: confirmed or held', 'location', 'preference-applied', REPLAYED),
          202: answers(PurchaseRef, 'In the line', 'location', 'retry-after', 'preference-applied', REPLAYED),
          ...problems(400, 402, soldOut({ resource: 'product:1', units: 2 }, 1), 413, 415, 422),
        },
      },
    },
    async (request, reply) => {
      const { customer, hold_seconds = null } = request.body
      // Members in one order: two bodies that say the same have the same hash.
      const members = Object.entries(request.body.payment ?? { method: 'none' }).sort(([a], [b]) => (a < b ? -1 : 1))
      const payment = Object.fromEntries(members) as Payment
      const wait_s = preferredWait(request)
      const idempotency_key = idempotencyKey(request)
      const lines = mergeLines(request.body.lines)
      const over = lines.find((line) => line.units > MAX_UNITS)
      if (over) throw badField('lines', `ask for more than ${MAX_UNITS} units of ${over.resource} together`)
      await kinds.check(request.body.lines, payment)
      const id = uuidv7()
      const body = { customer, lines, payment, hold_seconds }
      const keyed = idempotency_key !== null
      const row = {
        ...body,
        id,
        queue: queueOf(lines),
        idempotency_key,
        idempotency_scope: keyed ? idempotencyScope(request, 'POST /api/purchases') : '',
        request_hash: keyed ? createHash('sha256').update(JSON.stringify(body)).digest('base64url') : null,
      }
      if (wait_s !== undefined) reply.header('preference-applied', `wait=${wait_s}`)
      const own = wait_s === undefined ? undefined : waits.watch(id)
      try {
        const taken = await intake.take(row)
        if (taken.replayed && !taken.same_body) throw reusedKey()
        reply.header('location', `/api/purchases/${taken.id}`)
        if (taken.replayed) return await replay(reply, taken.id, wait_s)
        if (own && wait_s !== undefined) {
          await own.settled(wait_s * 1000)
          // It is in its line, whatever has become of Postgres since: a 503 would have it bought twice.
          const settled = await readOne(id).catch((error) => {
            if (error instanceof UnavailableError) return undefined
            throw error
          })
          if (settled) return await answer(reply, settled)
        }
        const { seq, created_at } = taken
        const rest = { status: 'queued' as const, reason: null, amount: null, currency: null, expires_at: null }
        const fresh = { ...row, ...rest, seq, created_at, fence: null, settled_at: null, overdue: false }
        return accepted(reply, present(fresh))
      } finally {
        own?.done()
      }
    },
  )

  async function replay(reply: FastifyReply, id: string, wait_s: number | undefined): Promise<FastifyReply> {
    reply.header('idempotent-replayed', 'true')
    if (wait_s === undefined) return accepted(reply, present(await readOne(id)))
    const watch = waits.watch(id)
    try {
      const row = await readOne(id)
      if (row.status !== 'queued') return await answer(reply, row)
      await watch.settled(wait_s * 1000)
      return await answer(reply, await readOne(id))
    } finally {
      watch.done()
    }
  }

  app.get(
    '/api/purchases/:id',
    {
      schema: {
        operationId: 'getPurchase',
        tags,
        summary: 'A purchase, whatever its status',
        params: IdParams(SAMPLES.confirmed),
        response: { 200: answers(PurchaseRef, 'The purchase'), ...problems(400, 404) },
      },
    },
    async (request) => present(await readOne(request.params.id)),
  )

  app.get(
    '/api/purchases',
    {
      schema: {
        operationId: 'listPurchases',
        tags,
        summary: 'Purchases, newest first',
        querystring: pageQuery({
          customer: Type.Optional(Type.String({ maxLength: 200, format: PLAIN_TEXT })),
          resource: Type.Optional(Ref([])),
          status: Type.Optional(Type.Enum([...PURCHASE_STATUSES])),
        }),
        response: { 200: answers(page(PurchaseRef), 'One page'), ...problems(400) },
      },
    },
    async (request) => {
      const { customer, resource, status, limit = 20, cursor } = request.query
      const before = fromCursor(cursor, UUID)
      const conditions = [sql`true`]
      if (before !== undefined) conditions.push(sql`id < ${before}`)
      if (customer !== undefined) conditions.push(sql`customer = ${customer}`)
      if (resource !== undefined) {
        const line = JSON.stringify([{ resource }])
        conditions.push(sql`(queue = ${resource} OR (jsonb_array_length(lines) > 1 AND lines @> ${line}::jsonb))`)
      }
      if (status === 'held') conditions.push(sql`(status = 'held' AND expires_at > clock_timestamp())`)
      else if (status === 'expired') {
        conditions.push(sql`(status = 'expired' OR (status = 'held' AND expires_at <= clock_timestamp()))`)
      } else if (status !== undefined) conditions.push(sql`status = ${status}`)
      const where = sql`WHERE ${sql.join(conditions, sql` AND `)} ORDER BY id DESC LIMIT ${limit + 1}`
      const rows = await guarded(() => readRows(client, where))
      const data = rows.slice(0, limit).map(present)
      return { data, next_cursor: rows.length > limit ? toCursor(data.at(-1)?.id ?? '') : null }
    },
  )

  for (const command of COMMANDS) {
    app.post(
      `/api/purchases/:id/${command}`,
      {
        schema: {
          operationId: `${command}Purchase`,
          tags,
          summary: SUMMARIES[command],
          description:
            'Stands in the line of the purchase. Answers when settled, 10 seconds at most or what `Prefer: wait=N` says; ' +
            '202 when it takes longer.',
          params: IdParams(SAMPLES[ALLOWED[command]]),
          headers: Type.Object({ prefer: Type.Optional(Type.String()), 'idempotency-key': Key }),
          response: {
            200: answers(PurchaseRef, 'Done', 'preference-applied', REPLAYED),
            202: answers(PurchaseRef, 'In the line', 'retry-after', 'preference-applied', REPLAYED),
            ...problems(400, 404, wrongStatus(command, 'refunded'), 413, 415),
          },
        },
      },
      async (request, reply) => await obey(command, request, request.params.id.toLowerCase(), reply),
    )
  }

  async function obey(command: CommandKind, request: FastifyRequest, purchase: string, reply: FastifyReply) {
    const wait_s = preferredWait(request)
    const key = idempotencyKey(request)
    const scope = key === null ? '' : idempotencyScope(request, `${command} ${purchase}`)
    const row = await readOne(purchase)
    if (wait_s !== undefined) reply.header('preference-applied', `wait=${wait_s}`)
    const id = uuidv7()
    const earlier = key === null ? undefined : await findCommand(key, scope)
    // A status that can no longer lead to where the command wants to go needs no place in the line.
    if (!earlier) refuseUnless(command, row)
    let watch = waits.watch(earlier ?? id)
    try {
      const standing = earlier ?? (await enqueue({ id, queue: row.queue, purchase, command, key, scope }))
      let settled = false
      if (standing !== id) {
        reply.header('idempotent-replayed', 'true')
        // Another request with this key was faster by a moment: it is its command that is waited for.
        watch.done()
        watch = waits.watch(standing)
        settled = (await commandState(standing)).status !== 'queued'
      }
      if (!settled) await watch.settled(wait_s === undefined ? COMMAND_WAIT_MS : wait_s * 1000)
      const { status, met } = await commandState(standing)
      if (status === 'rejected') throw wrongStatus(command, met ?? row.status)
      const after = present(await readOne(purchase))
      return status === 'done' ? reply.code(200).send(after) : accepted(reply, after)
    } finally {
      watch.done()
    }
  }

  async function findCommand(key: string, scope: string): Promise<string | undefined> {
    const [row] = await guarded(() =>
      run<{ id: string }>(
        client,
        sql`SELECT id FROM commands WHERE idempotency_key = ${key} AND idempotency_scope = ${scope}`,
      ),
    )
    return row?.id
  }

  /** Puts the command into the line; the id of an earlier one with the same key, if there is one. */
  async function enqueue(c: {
    id: string
    queue: string
    purchase: string
    command: CommandKind
    key: string | null
    scope: string
  }): Promise<string> {
    const made = await guarded(() =>
      run(
        client,
        sql`INSERT INTO commands (id, queue, purchase, command, idempotency_key, idempotency_scope)
            VALUES (${c.id}, ${c.queue}, ${c.purchase}, ${c.command}, ${c.key}, ${c.scope})
            ON CONFLICT (idempotency_key, idempotency_scope) WHERE idempotency_key IS NOT NULL DO NOTHING
            RETURNING id`,
      ),
    )
    deps.nudge([c.queue])
    if (made.length > 0 || c.key === null) return c.id
    return (await findCommand(c.key, c.scope)) ?? c.id
  }

  async function commandState(id: string) {
    const [row] = await guarded(() =>
      run<{ status: 'queued' | 'done' | 'rejected'; met: PurchaseStatus | null }>(
        client,
        sql`SELECT status, met FROM commands WHERE id = ${id}`,
      ),
    )
    return row ?? { status: 'queued' as const, met: null }
  }
}

const SUMMARIES: Record<CommandKind, string> = {
  confirm: 'Make a held purchase final',
  cancel: 'Give a queued or held purchase up',
  refund: 'Take a confirmed purchase back',
}
/** The status that a command needs; a queued purchase may still get there. */
const ALLOWED = { confirm: 'held', cancel: 'cancellable', refund: 'confirmed' } as const

/** Purchases that the sample data holds, so that every example answers when it is pressed. */
export const SAMPLES = {
  confirmed: '01935f5e-0000-7000-8000-000000000001',
  held: '01935f5e-0000-7000-8000-000000000002',
  cancellable: '01935f5e-0000-7000-8000-000000000003',
}

const soldOut = (line: Line | undefined, available: number, purchase?: Purchase) =>
  new Problem(409, 'sold_out', `${line?.resource} had fewer than ${line?.units} units left.`, {
    available,
    resource: line?.resource,
    ...(purchase ? { purchase } : {}),
  })

const wrongStatus = (command: CommandKind, status: PurchaseStatus) =>
  new Problem(409, 'wrong_status', `A purchase that is ${status} cannot be ${PARTICIPLES[command]}.`, {
    current_status: status,
  })
const PARTICIPLES: Record<CommandKind, string> = { confirm: 'confirmed', cancel: 'cancelled', refund: 'refunded' }

function refuseUnless(command: CommandKind, row: Row): void {
  const status = row.overdue ? 'expired' : row.status
  const needed = command === 'refund' ? 'confirmed' : 'held'
  const later = command === 'refund' && status === 'held'
  if (status !== needed && status !== 'queued' && !later) throw wrongStatus(command, status)
}

/** References that one process remembers; beyond that it starts to remember anew. */
const KINDS = 100_000

/** What is sold by units. A resource is never deleted and never changes its kind, so what was found stays true. */
function createKinds(client: Client, guarded: PurchaseRoutesDeps['guarded']) {
  const kinds = new Map<string, string>()
  return {
    /** @throws Problem 422 naming the line whose resource does not exist, or is not sold by units */
    async check(lines: readonly Line[], payment: Payment): Promise<void> {
      const fields = lines.map((line, i) => [line.resource, `lines[${i}].resource`] as const)
      const wanted = payment.method === 'wallet' ? [...fields, [payment.account, 'payment.account'] as const] : fields
      const unknown = wanted.filter(([ref]) => !kinds.has(ref)).map(([ref]) => ref)
      if (unknown.length > 0) {
        const rows = await guarded(() =>
          run<{ ref: string; kind: string }>(
            client,
            sql`SELECT ref, kind FROM resources
                WHERE ref IN (SELECT json_array_elements_text(${JSON.stringify(unknown)}::json))`,
          ),
        )
        if (kinds.size > KINDS) kinds.clear()
        for (const { ref, kind } of rows) kinds.set(ref, kind)
      }
      for (const [ref, field] of wanted) {
        const kind = kinds.get(ref)
        if (kind === undefined) throw badField(field, `names ${ref}, which does not exist`, 422, 'unknown_resource')
        if (kind !== 'units') throw badField(field, `names ${ref}, which is not sold by units`, 422, 'wrong_kind')
      }
    },
  }
}
