/**
 * The queries of the search. Invariant: each reads an index by an exact value or by a range of references, up to a limit, so
 * its cost grows neither with past sales nor with the number of resources.
 */
import { eq, or, sql } from 'drizzle-orm'
import type { Client } from '../../shared/db/client.ts'
import { charges } from '../../shared/db/schema.ts'
import { build, prepare, value } from '../../shared/db/statements.ts'
import { arrayText } from '../../shared/db/unnest.ts'
import { UUID } from '../http/schemas.ts'
import { BOOKING_ROWS, type BookingRow, bookingPage } from '../queue/booking-rows.ts'
import { PURCHASE_ROWS, type PurchaseRow, purchasePage } from '../queue/purchase-rows.ts'
import { resourceTypes } from './queries.ts'

/** Maximum number of purchases, and of bookings, that are read for a customer: the lists of the API show all of them. */
export const CUSTOMER_ROWS = 10
/** Maximum number of resources that are read. */
const RESOURCES = 20
/** Maximum number of types in which ids are looked for; a deployment has a few. */
const TYPES = 64
/** Characters of a reference. A text with any other character is the beginning of no reference. */
const OF_REFERENCES = /^[A-Za-z0-9._~:-]+$/
/** Sorts after every character of a reference, in byte order. */
const LAST = '\x7f'

const purchasesOfCustomer = purchasePage({ customer: '' })
const bookingsOfCustomer = bookingPage({ customer: '' })
const chargesSql = prepare(
  build
    .select({ purchase_id: charges.purchase_id, booking_id: charges.booking_id })
    .from(charges)
    .where(or(eq(charges.id, sql`${value('uuid')}::uuid`), eq(charges.provider_id, value('text'))))
    .limit(RESOURCES),
)
// Written as raw SQL: the types are found by a skip scan, a recursive query.
const resourcesSql = prepare<{ id: string; name: string }>(sql`
  WITH RECURSIVE ${resourceTypes}, found AS (
    (SELECT id, name FROM resources WHERE id >= ${value('text')}::text AND id < ${value('text')}::text || ${LAST}
     ORDER BY id LIMIT ${RESOURCES}::int)
    UNION ALL
    SELECT r.id, r.name FROM (SELECT name FROM type LIMIT ${TYPES}::int) t CROSS JOIN LATERAL (
      SELECT id, name FROM resources
      WHERE id >= t.name || ':' || ${value('text')}::text AND id < t.name || ':' || ${value('text')}::text || ${LAST}
      ORDER BY id LIMIT ${RESOURCES}::int
    ) r
  )
  SELECT id, name FROM found
  ORDER BY id <> ${value('text')}::text AND split_part(id, ':', 2) <> ${value('text')}::text, id LIMIT ${RESOURCES}::int`)

export interface Found {
  /** rows whose id, or a charge of which, is the text */
  purchases: PurchaseRow[]
  bookings: BookingRow[]
  /** the newest rows of the customer */
  customerPurchases: PurchaseRow[]
  customerBookings: BookingRow[]
  /** resources whose reference or id begins with the text; equal ones first */
  resources: { id: string; name: string }[]
}

/**
 * Searches for a text. Postgres gets all statements at once; only a charge needs a second round trip, for its purchase or
 * booking. Rows have no `reference` of the caller's yet: when they have one with an index, its statement belongs beside those
 * of the customer.
 */
export async function search(client: Client, text: string): Promise<Found> {
  const lower = text.toLowerCase()
  const uuid = UUID.test(lower) ? lower : null
  const newest = { customer: text, limit: CUSTOMER_ROWS }
  const [own, customerPurchases, customerBookings, charged, resources] = await Promise.all([
    rowsByIds(client, uuid === null ? [] : [uuid]),
    purchasesOfCustomer(client, newest),
    bookingsOfCustomer(client, newest),
    chargesSql(client, { uuid, text }),
    OF_REFERENCES.test(text) ? resourcesSql(client, { text }) : [],
  ])
  const payers = charged.flatMap(({ purchase_id, booking_id }) => purchase_id ?? booking_id ?? [])
  const found = payers.length > 0 ? await rowsByIds(client, [...(uuid === null ? [] : [uuid]), ...payers]) : own
  return { ...found, customerPurchases, customerBookings, resources }
}

async function rowsByIds(client: Client, ids: string[]): Promise<Pick<Found, 'purchases' | 'bookings'>> {
  if (ids.length === 0) return { purchases: [], bookings: [] }
  const values = { ids: arrayText(ids) }
  const [purchases, bookings] = await Promise.all([
    PURCHASE_ROWS.read(client, values),
    BOOKING_ROWS.read(client, values),
  ])
  return { purchases, bookings }
}
