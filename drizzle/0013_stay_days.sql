ALTER TABLE "bookings" ADD COLUMN "days" integer;--> statement-breakpoint
ALTER TABLE "bookings" ADD CONSTRAINT "bookings_days_check" CHECK ("bookings"."days" > 0);