"""guest: people from outside, who see the channels granted to them, for a time.

Owns invite links, redemptions, policies, guests with their times, channel grants, and the notices about them. Refuses
to own who is a member of a workspace (membership adds and removes the member behind a guest) and what a channel is
(messaging).
"""
