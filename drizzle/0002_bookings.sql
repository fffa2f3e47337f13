ALTER TABLE "commands" DROP CONSTRAINT "commands_command_check";--> statement-breakpoint
DROP INDEX "bookings_by_customer";--> statement-breakpoint
ALTER TABLE "commands" ALTER COLUMN "purchase" DROP NOT NULL;--> statement-breakpoint
ALTER TABLE "bookings" ADD COLUMN "pickup" jsonb;--> statement-breakpoint
ALTER TABLE "bookings" ADD COLUMN "amount" bigint;--> statement-breakpoint
ALTER TABLE "bookings" ADD COLUMN "currency" text;--> statement-breakpoint
ALTER TABLE "bookings" ADD COLUMN "payment" jsonb DEFAULT '{"method":"none"}'::jsonb NOT NULL;--> statement-breakpoint
ALTER TABLE "bookings" ADD COLUMN "hold_seconds" integer;--> statement-breakpoint
ALTER TABLE "bookings" ADD COLUMN "conflicts" jsonb;--> statement-breakpoint
ALTER TABLE "bookings" ADD COLUMN "expires_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "bookings" ADD COLUMN "idempotency_key" text;--> statement-breakpoint
ALTER TABLE "bookings" ADD COLUMN "idempotency_scope" text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE "bookings" ADD COLUMN "request_hash" text;--> statement-breakpoint
ALTER TABLE "commands" ADD COLUMN "booking" uuid;--> statement-breakpoint
ALTER TABLE "commands" ADD CONSTRAINT "commands_booking_bookings_id_fk" FOREIGN KEY ("booking") REFERENCES "public"."bookings"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE UNIQUE INDEX "bookings_idempotency_key" ON "bookings" USING btree ("idempotency_key","idempotency_scope") WHERE idempotency_key IS NOT NULL;--> statement-breakpoint
CREATE INDEX "bookings_by_resource" ON "bookings" USING btree ("resource","id");--> statement-breakpoint
CREATE INDEX "bookings_requested" ON "bookings" USING btree ("resource","expires_at") WHERE status = 'requested';--> statement-breakpoint
CREATE INDEX "bookings_requested_until" ON "bookings" USING btree ("expires_at") WHERE status = 'requested';--> statement-breakpoint
CREATE INDEX "bookings_by_customer" ON "bookings" USING btree ("customer","id");--> statement-breakpoint
ALTER TABLE "commands" ADD CONSTRAINT "commands_subject_check" CHECK (num_nonnulls("commands"."purchase", "commands"."booking") = 1);--> statement-breakpoint
ALTER TABLE "commands" ADD CONSTRAINT "commands_command_check" CHECK ("commands"."command" IN ('confirm', 'cancel', 'refund') OR "commands"."booking" IS NOT NULL AND "commands"."command" IN ('accept', 'decline', 'complete'));