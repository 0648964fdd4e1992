"""messaging: owns conversations, who takes part in them, messages, and the streams on which they are seen live.

It does not own who belongs to a workspace (membership decides), nor what a guest sees and until when (guest decides).
Participation hangs on the member id of one stay, so who comes back starts with nothing.
"""
