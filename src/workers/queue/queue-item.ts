/**
 * A pending row of a queue: a purchase or a command on it in a queue of units, a booking or a command on it in a
 * calendar.
 */
import { resourcesOfBooking } from '../decide/bookings.ts'
import { resourcesOfPurchase } from '../decide/purchases.ts'
import type { BookingItem, PurchaseItem } from '../decide/types.ts'

/** The position from which the next batch fetches a queue. */
export interface QueueCursor {
  queue: string
  /** only rows with a higher seq are fetched */
  after: number
  /** most rows of each kind (purchases, commands, bookings) that the queue may add to the batch */
  limit: number
}

export type QueueItem = PurchaseItem | BookingItem

/** Returns the purchase or booking that the item is or is about. */
export const rowOf = (item: QueueItem) => item.purchase ?? item.booking

/** Returns the id that a waiting client watches: that of the command, otherwise that of the purchase or booking. */
export const idOf = (item: QueueItem) => item.command?.id ?? rowOf(item).id

/** Returns every resource that the settlement of this item may write. @throws UnprocessableError */
export const resourcesOf = (item: QueueItem): string[] =>
  item.purchase ? resourcesOfPurchase(item) : resourcesOfBooking(item)
