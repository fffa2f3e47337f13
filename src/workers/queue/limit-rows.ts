/**
 * Reads and writes how many units each customer has of the limited resources of a batch. Invariant: both happen under
 * the resources' row locks, so no other transaction changes the numbers in between.
 */
import { and, eq, sql } from 'drizzle-orm'
import type { Transaction } from '../../shared/db/client.ts'
import { customerHoldings } from '../../shared/db/schema.ts'
import { build, listOf, prepare } from '../../shared/db/statements.ts'
import type { PurchaseItem, Resource } from '../decide/types.ts'

const pairList = listOf('d', { resource_id: customerHoldings.resource_id, customer: customerHoldings.customer })
const holdingsSql = prepare(
  build
    .select({
      resource_id: customerHoldings.resource_id,
      customer: customerHoldings.customer,
      units: customerHoldings.units,
    })
    .from(pairList.rows)
    .innerJoin(
      customerHoldings,
      and(
        eq(customerHoldings.resource_id, pairList.columns.resource_id),
        eq(customerHoldings.customer, pairList.columns.customer),
      ),
    ),
)

/**
 * Reads the holdings of the batch's customers into the resources with a limit. Sends no statement if no resource has a
 * limit.
 */
export async function readHoldings(
  tx: Transaction,
  queued: readonly PurchaseItem[],
  resources: ReadonlyMap<string, Resource>,
): Promise<void> {
  const limited = new Set([...resources.values()].filter((one) => one.max_per_customer !== null).map((one) => one.id))
  if (limited.size === 0) return
  const pairs = new Map<string, { resource_id: string; customer: string }>()
  for (const { purchase, command } of queued) {
    const { customer, items, payment } = purchase
    const ids = items.map((item) => item.resource)
    for (const one of [payment, command?.payment]) if (one?.method === 'wallet') ids.push(one.account)
    for (const id of ids) if (limited.has(id)) pairs.set(JSON.stringify([id, customer]), { resource_id: id, customer })
  }
  const rows = await holdingsSql(tx, pairList.values([...pairs.values()]))
  for (const { resource_id, customer, units } of rows) resources.get(resource_id)?.holdings.set(customer, units)
}

const heldList = listOf('d', {
  resource_id: customerHoldings.resource_id,
  customer: customerHoldings.customer,
  units: customerHoldings.units,
})
const writeHoldingsSql = prepare(
  build
    .insert(customerHoldings)
    .select(sql`${build.select(heldList.columns).from(heldList.rows)}`)
    .onConflictDoUpdate({
      target: [customerHoldings.resource_id, customerHoldings.customer],
      set: { units: sql`excluded.units` },
      setWhere: sql`${customerHoldings.units} <> excluded.units`,
    }),
)

/** Writes the holdings as they are after the batch. */
export async function writeHoldings(tx: Transaction, resources: readonly Resource[]): Promise<void> {
  const rows = resources.flatMap(({ id, holdings }) =>
    Array.from(holdings, ([customer, units]) => ({ resource_id: id, customer, units })),
  )
  if (rows.length > 0) await writeHoldingsSql(tx, heldList.values(rows))
}
