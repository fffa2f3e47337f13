/**
 * `GET /api/dashboard/search`: finds a purchase, a booking, a customer or a resource by one text. Invariant: the text is only
 * ever a value, compared as a whole or as the beginning of a reference; it is no pattern.
 */
import Type from 'typebox'
import { fieldProblem } from '../../shared/problem.ts'
import { problemResponses, response } from '../http/responses.ts'
import { NFC, Nullable, PLAIN_TEXT } from '../http/schemas.ts'
import { iso } from '../http/timestamps.ts'
import type { TypedApp } from '../http/typed-app.ts'
import type { BookingRow } from '../queue/booking-rows.ts'
import type { PurchaseRow } from '../queue/purchase-rows.ts'
import { statusNow } from '../queue/submission.ts'
import type { Read } from './reads.ts'
import { CUSTOMER_ROWS, type Found, search } from './search-queries.ts'

/** Maximum number of results. */
const RESULTS = 20
/** Maximum length of the text: the longest customer has as many characters. */
const MAX_TEXT = 200
/** Maximum number of items of a purchase that its title names. */
const TITLE_ITEMS = 3

const Result = Type.Object({
  kind: Type.Enum(['purchase', 'booking', 'customer', 'resource']),
  id: Type.String({ description: 'The id of a purchase or booking, the `type:id` of a resource, or the customer' }),
  title: Type.String({ description: 'One line for people' }),
  status: Nullable(Type.String({ description: 'The status of a purchase or booking' })),
  at: Nullable(
    Type.String({ format: 'date-time', description: 'When it was created; for a customer, the newest row; else null' }),
  ),
})
type Result = Type.Static<typeof Result>
const Results = Type.Object(
  { results: Type.Array(Result, { description: `At most ${RESULTS}, best first` }) },
  {
    examples: [
      {
        results: [
          { kind: 'customer', id: 'ada', title: '1 purchase', status: null, at: '2026-11-21T10:00:00.000Z' },
          {
            kind: 'purchase',
            id: '01935f5e-0000-7000-8000-000000000001',
            title: '1 × product:1 for ada',
            status: 'confirmed',
            at: '2026-11-21T10:00:00.000Z',
          },
        ],
      },
    ],
  },
)

const schema = {
  operationId: 'searchDashboard',
  tags: ['operating'],
  summary: 'Find a purchase, a booking, a customer or a resource',
  description:
    'By the whole id of a purchase or booking, by the whole id of a charge (ours or the provider’s), by the whole name ' +
    'of a customer, or by the beginning of a resource’s `type:id` or of its id. Exact matches come first.',
  querystring: Type.Object(
    {
      q: Type.String({
        minLength: 1,
        maxLength: MAX_TEXT,
        format: PLAIN_TEXT,
        [NFC]: true,
        description: 'The text to find; white space at either end is ignored, and no character is a wildcard',
        examples: ['sample'],
      }),
    },
    { additionalProperties: false },
  ),
  response: { 200: response(Results, 'What was found; empty when nothing was'), ...problemResponses(400) },
}

export interface SearchOptions {
  read: Read
}

export async function searchRoutes(app: TypedApp, { read }: SearchOptions): Promise<void> {
  app.get('/api/dashboard/search', { schema }, async (request) => {
    const text = request.query.q.trim()
    if (text === '') throw fieldProblem('q', 'must contain more than white space')
    return { results: rank(text, await read((client) => search(client, text))) }
  })
}

/** Orders the results, best first, and leaves out repetitions. */
function rank(text: string, found: Found): Result[] {
  const isExact = ({ id }: { id: string }) => id === text || id.slice(id.indexOf(':') + 1) === text
  const rows = (purchases: PurchaseRow[], bookings: BookingRow[]) =>
    // Ids are in the order of time.
    [...purchases.map(purchaseResult), ...bookings.map(bookingResult)].sort((a, b) => (a.id < b.id ? 1 : -1))
  const results = [
    ...rows(found.purchases, found.bookings),
    ...found.resources.filter(isExact).map(resourceResult),
    ...customerResult(text, found),
    ...rows(found.customerPurchases, found.customerBookings),
    ...found.resources.filter((one) => !isExact(one)).map(resourceResult),
  ]
  return [...new Map(results.map((one) => [`${one.kind} ${one.id}`, one])).values()].slice(0, RESULTS)
}

const forCustomer = (customer: string) => (customer === '' ? '' : ` for ${customer}`)

function purchaseResult(row: PurchaseRow): Result {
  const named = row.items.slice(0, TITLE_ITEMS).map(({ resource, units }) => `${units} × ${resource}`)
  const more = row.items.length - named.length
  const title = `${named.join(', ')}${more > 0 ? ` and ${more} more` : ''}${forCustomer(row.customer)}`
  // An overdue hold reads as expired. GET also takes the row lock: here a confirm that commits now is shown the next time.
  return { kind: 'purchase', id: row.id, title, status: statusNow(row), at: iso(row.created_at) }
}

function bookingResult(row: BookingRow): Result {
  const [from, to] = [row.from_at, row.until_at].map((at) => at && iso(at).slice(0, 10))
  const title = `${row.queue}, ${from}${to ? ` to ${to}` : ''}${forCustomer(row.customer)}`
  return { kind: 'booking', id: row.id, title, status: statusNow(row), at: iso(row.created_at) }
}

const resourceResult = ({ id, name }: Found['resources'][number]): Result => ({
  kind: 'resource',
  id,
  title: name || id,
  status: null,
  at: null,
})

function customerResult(customer: string, { customerPurchases, customerBookings }: Found): Result[] {
  const newest = [customerPurchases[0], customerBookings[0]].flatMap((row) => (row ? iso(row.created_at) : [])).sort()
  const at = newest.at(-1)
  if (at === undefined) return []
  const titles = [counted(customerPurchases.length, 'purchase'), counted(customerBookings.length, 'booking')]
  return [{ kind: 'customer', id: customer, title: titles.filter(Boolean).join(', '), status: null, at }]
}

function counted(n: number, noun: string): string {
  if (n === 0) return ''
  return `${n}${n < CUSTOMER_ROWS ? '' : ' or more'} ${noun}${n === 1 ? '' : 's'}`
}
