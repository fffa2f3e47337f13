/** What stands in a line: purchases with their commands where units are sold, bookings with theirs in a calendar. */
import { type BookingItem, refsOfBooking } from './bookings.ts'
import { type PurchaseItem, refsOfPurchase } from './purchases.ts'

export type Item = PurchaseItem | BookingItem

/** The purchase or booking that an item settles or is about. */
export const rowOf = (item: Item) => item.purchase ?? item.booking

/** What a waiting client watches: the command, or the purchase or booking itself. */
export const idOf = (item: Item) => item.command?.id ?? rowOf(item).id

/** Every resource that settling this item may write. @throws UnprocessableError */
export const refsOf = (item: Item): string[] => (item.purchase ? refsOfPurchase(item) : refsOfBooking(item))
